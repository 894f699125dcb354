"""`weft serve --replicas 2` with real ranks: the same tokens from either, prefixes, metrics, a death, an end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frontend.server.test_serve_command import Served, serving
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import until

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 60, "ignore_eos": True, "return_token_ids": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(str(model), "--replicas", "2", "--attn-tp-size", "1", "--log-level", "debug") as server:
        yield server


def post(server: Served, body: dict[str, Any], **settings: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json=GREEDY | body, timeout=240, **settings)


def replicas(server: Served) -> list[tuple[str, int]]:
    body = httpx.get(f"{server.url}/ready", timeout=240).json()
    return [(replica["status"], replica["restarts"]) for replica in body["replicas"]]


def metric(server: Served, name: str, engine: int) -> float:
    page = httpx.get(f"{server.url}/metrics", timeout=240).text
    lines = [line for line in page.splitlines() if line.startswith(name + "{") and f'engine="{engine}"' in line]
    assert len(lines) == 1, (name, lines)
    return float(lines[0].split()[-1])


def generated(server: Served) -> list[float]:
    return [metric(server, "vllm:generation_tokens_total", engine) for engine in range(2)]


def test_either_replica_gives_the_same_tokens(served: Served) -> None:
    """Greedy and with a seed. Equal prompts at once go to both: one that runs weighs more than its prefix saves."""
    for body in ({"prompt": "Hello"}, {"prompt": "Hello", "temperature": 1.0, "seed": 5}):
        before = generated(served)
        found = answers_of_both(served, body)
        assert len(set(found)) == 1 and len(found[0]) == 60
        assert sum(generated(served)) - sum(before) == 60 * len(found)


def answers_of_both(server: Served, body: dict[str, Any]) -> list[tuple[int, ...]]:
    """Token ids of answers to equal requests, some of them from either replica."""
    before, found = generated(server), list[tuple[int, ...]]()
    for _ in range(20):  # until some were there at the same time
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(partial(post, server), [body] * 6))
        assert all(answer.status_code == 200 for answer in answers)
        found += [tuple(answer.json()["choices"][0]["token_ids"]) for answer in answers]
        if all(now > then for now, then in zip(generated(server), before, strict=True)):
            return found
    pytest.fail("one replica took all")


def test_a_conversation_stays_with_its_prefix(served: Served) -> None:
    text = "In a village at the foot of a mountain there lived a weaver, who "
    for turn in range(4):
        for name in ("A: ", "B: "):
            answer = post(served, {"prompt": name + text + "and then " * turn, "max_tokens": 2}).json()
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert cached == 0 if turn == 0 else cached >= 64, (turn, name)


def test_both_are_shown(served: Served) -> None:
    answers_of_both(served, {"prompt": "Hello"})
    body = httpx.get(f"{served.url}/ready", timeout=240).json()
    assert body["replicas"] == [{"replica": index, "status": "ready", "restarts": 0} for index in range(2)]
    assert [(rank["rank"], rank["coordinates"]["replica"]) for rank in body["ranks"]] == [(0, 0), (1, 1)]
    cpus = [set(rank["cpus"]) for rank in body["ranks"]]
    assert not cpus[0] & cpus[1], "cores are shared out"
    page = httpx.get(f"{served.url}/metrics", timeout=240).text
    for replica in range(2):
        assert f'weft:rank_rows_total{{dp="0",rank="{replica}",replica="{replica}",tp="0"}}' in page
        assert f'weft:replica_ready{{replica="{replica}"}} 1.0' in page
        assert metric(served, "vllm:kv_cache_usage_perc", replica) == 0
        assert metric(served, "vllm:cache_config_info", replica) == 1
        assert metric(served, "vllm:e2e_request_latency_seconds_count", replica) > 0
    assert page.count("# TYPE vllm:e2e_request_latency_seconds histogram") == 1
    assert "rank 1 (replica 1) ready" in served.text and "replicas: 2" in served.text


def test_a_death_and_an_end(served: Served) -> None:
    """The last test of this server."""
    with httpx.stream("POST", f"{served.url}/v1/completions", json=GREEDY | {"prompt": "x"}, timeout=240) as response:
        assert response.read()
    victim = httpx.get(f"{served.url}/ready", timeout=240).json()["ranks"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(lambda: replicas(served)[0] == ("restarting", 1))
    assert replicas(served)[1] == ("ready", 0)
    assert post(served, {"prompt": "meanwhile"}).status_code == 200
    until(lambda: replicas(served) == [("ready", 1), ("ready", 0)])
    assert f"rank 0 (replica 0) pid {victim} was killed by SIGKILL" in served.text
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
