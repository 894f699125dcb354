"""Requests that are nearly right end with an answer or a refusal, never with an error of the server's own."""

from __future__ import annotations

import json
import random
import re
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frontend.server.conftest import Running
from tests.frontend.server.semi_valid import SemiValid
from tests.frontend.server.test_serve_command import Served, serving
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import until

MAY_FAIL = (503, 504)
"""Load that is shed, and a request's own timeout."""
MIB = 1 << 20
ALIASES = {"/chat/completions", "/completions"}
POSTS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/input_tokens", "/v1/messages",
    "/v1/messages/count_tokens", "/tokenize", "/detokenize",
)  # fmt: skip


def hold(http: httpx.Client, count: int, seed: int, threads: int, only: str | None = None) -> Counter[int]:
    """Statuses; each answer is checked. `only`: a path."""
    source, lock = SemiValid(http.get("/openapi.json").json(), seed), threading.Lock()
    statuses = Counter[int]()

    def one(_: int) -> None:
        with lock:
            path, body = source.request(only)
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
        shown = (seed, answer.status_code, answer.text[:500], path, body[:2000])
        assert answer.status_code < 500 or answer.status_code in MAY_FAIL, shown
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["message"] and "Traceback" not in error["message"], shown
        with lock:
            statuses[answer.status_code] += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(count)))
    return statuses


def test_a_few_hundred(alphabet: Running) -> None:
    statuses = hold(alphabet.http, 300, random.randrange(2**31), threads=1)
    assert statuses[200] > 30 and statuses[400] > 30


@pytest.mark.long
@pytest.mark.parametrize("path", POSTS)
def test_five_thousand_of_each_endpoint(alphabet: Running, path: str) -> None:
    statuses = hold(alphabet.http, 5000, random.randrange(2**31), threads=2, only=path)
    assert statuses[200] > 200 and statuses[400] > 200


def test_no_endpoint_is_left_out(alphabet: Running) -> None:
    assert set(POSTS) == set(SemiValid(alphabet.http.get("/openapi.json").json(), 0).paths) - ALIASES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("semi-valid") / "tiny")


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(str(model), "--max-num-seqs", "128") as running:
        yield running


@pytest.mark.long
def test_ten_thousand_over_real_ranks(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=120) as http:
        statuses = hold(http, 10_000, random.randrange(2**31), threads=8)
        ready = http.get("/ready").json()
        assert statuses[200] > 1000 and statuses[400] > 1000, statuses
        assert ready["status"] == "ready" and ready["restarts"] == 0


def resident(served: Served) -> int:
    """Bytes of the front end's memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{served.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def posted(served: Served, path: str, length: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection with the head of a request whose body has `length` bytes."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
    sock.sendall(
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n".encode()
    )
    return sock


def answers(served: Served) -> bool:
    answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}, timeout=60)
    assert answer.status_code == 200, answer.text
    return True


@pytest.mark.long
def test_a_hundred_bodies_that_never_end(served: Served) -> None:
    """Each of 15 MiB, of which all but the last byte come: most are refused, and a short request is answered."""
    before = resident(served)
    with ExitStack() as stack:
        socks = [stack.enter_context(posted(served, "/v1/completions", 15 * MIB)) for _ in range(100)]
        for sock in socks:
            with suppress(OSError):  # it has been refused, and the time in which its rest is dropped is over
                sock.sendall(b" " * (15 * MIB - 1))
        assert answers(served) and resident(served) - before < 300 * MIB
        refused = select.select(socks, [], [], 0)[0]
        assert len(refused) > 80
    assert answers(served)


@pytest.mark.long
def test_a_hundred_streams_that_nothing_reads(served: Served) -> None:
    """Each of three outputs; all together cost the front end at most 8 MB."""
    body: dict[str, Any] = {"prompt": "x", "n": 3, "stream": True, "max_tokens": 250, "ignore_eos": True, "logprobs": 5}
    text = json.dumps(body).encode()
    for _ in range(3):
        assert answers(served)
    before = resident(served)
    with ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(posted(served, "/v1/completions", len(text), receive_buffer=2048))
            sock.sendall(text)
        until(lambda: httpx.get(f"{served.url}/load").json()["server_load"] > 90)
        largest, deadline = 0, time.monotonic() + 20
        while time.monotonic() < deadline:
            largest = max(largest, resident(served))
            time.sleep(0.05)
        assert answers(served)
        assert httpx.get(f"{served.url}/load").json()["server_load"] > 90
    assert largest - before < 8_000_000, (largest - before) / 1e6


@pytest.mark.long
def test_long_texts_hold_up_no_short_one(served: Served) -> None:
    """While two texts of 16 MiB wait for the text worker and are worked on there, others go by."""
    long = json.dumps(
        {"prompt": "ab " * ((16 * MIB - 200) // 3), "truncate_prompt_tokens": 9, "max_tokens": 1}
    ).encode()
    headers = {"content-type": "application/json"}
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=served.url, timeout=240) as http:
        ends = [pool.submit(http.post, "/v1/completions", content=long, headers=headers) for _ in range(2)]
        beside = 0
        while not all(end.done() for end in ends):
            answer = http.post("/tokenize", json={"prompt": f"{beside} " + "abc " * 1500})
            assert answer.status_code == 200
            beside += 1
    assert beside > 3 and {end.result().status_code for end in ends} <= {200, 400}
