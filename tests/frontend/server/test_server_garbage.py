"""A request that is over leaves nothing that only the garbage collector would free, however it ended."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.frontend.server.conftest import Running, Start
from tests.support.waiting import until

TIMES = 10
ASK: dict[str, Any] = {"prompt": "x", "max_tokens": 80, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("abcdefghij", step_s=0.001)
    yield running
    running.stop()


def whole(server: Running) -> None:
    assert server.http.post("/v1/completions", json=ASK | {"n": 2}).status_code == 200


def stream(server: Running) -> None:
    assert server.http.post("/v1/completions", json=ASK | {"stream": True}).text.endswith("data: [DONE]\n\n")


def over_an_own_connection(server: Running) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json=ASK | {"stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")


def stopped_by_a_string(server: Running) -> None:
    answer = server.http.post("/v1/completions", json=ASK | {"stop": "cd"})
    assert answer.json()["choices"][0]["text"] == "ab"


def refused(server: Running) -> None:
    assert server.http.post("/v1/completions", json=ASK | {"n": 0}).status_code == 400


def left(server: Running) -> None:
    with httpx.Client(base_url=server.url) as http, http.stream("POST", "/v1/completions", json=ASK | {"stream": True}):
        pass


def left_before_an_answer(server: Running) -> None:
    server.executor.gate.clear()
    with (
        httpx.Client(base_url=server.url, timeout=httpx.Timeout(20, read=0.02)) as http,
        pytest.raises(httpx.ReadTimeout),
    ):
        http.post("/v1/completions", json=ASK)
    server.executor.gate.set()


@pytest.mark.parametrize(
    "request_", [whole, stream, over_an_own_connection, stopped_by_a_string, refused, left, left_before_an_answer]
)
def test_nothing_is_left_to_the_collector(server: Running, request_: Callable[[Running], None]) -> None:
    request_(server)
    settle(server)
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            request_(server)
        settle(server)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("weft."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert sum(found.values()) < TIMES, found


def settle(server: Running) -> None:
    """Until nothing runs, and what comes after the last byte is done."""
    until(lambda: not server.engines.open_outputs and not server.engines._open)
    time.sleep(0.05)
