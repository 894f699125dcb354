"""What happens around requests: clients that leave, ranks that die, a server that gets SIGTERM."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from tests.frontend.server.conftest import Running, Start
from tests.support.waiting import PATIENCE_S, until
from weft.base.errors import ConfigError, PeerError
from weft.engine.core.choice import Choice
from weft.frontend.server.http.listen import bind

LONG: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 190, "ignore_eos": True}


def blocks_used(server: Running) -> int:
    engine = server.engine
    assert engine is not None
    return engine.stats().total.blocks_used


def test_a_dead_rank_ends_streams_with_an_error_frame(start_server: Start) -> None:
    server = start_server("abc", step_s=0.1)
    try:
        with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
            lines = []
            with pytest.raises(httpx.RemoteProtocolError):
                for line in response.iter_lines():
                    lines.append(line)
                    server.executor.fail_at = 0
        assert '"code":"engine_failed"' in lines[-2] and not any("DONE" in line for line in lines)
        assert "4242" not in "".join(lines), "what happened inside is for the log"
        server.thread.join(PATIENCE_S)
        assert isinstance(server.engines.failure, PeerError)
        assert "rank 1 (dp 1) pid 4242 was killed by SIGKILL" in str(server.engines.failure)
        assert server.executor.closed
    finally:
        server.stop()


def test_a_dead_rank_is_an_error_to_the_openai_client(start_server: Start) -> None:
    server = start_server("abc", step_s=0.01)
    try:
        server.executor.fail_at = 4
        with pytest.raises(openai.APIError):
            list(server.client().completions.create(**LONG_OPENAI, stream=True))
    finally:
        server.stop()


LONG_OPENAI: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 190, "extra_body": {"ignore_eos": True}}


def test_a_dead_rank_is_a_500_without_a_stream(start_server: Start) -> None:
    server = start_server("abc")
    try:
        server.executor.fail_at = 3
        answer = server.http.post("/v1/completions", json=LONG)
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_failed"
        server.thread.join(PATIENCE_S)
    finally:
        server.stop()


def test_a_dead_rank_is_a_500_where_some_outputs_were_whole(start_server: Start) -> None:
    server = start_server("abc", max_num_seqs=2)
    try:
        server.executor.fail_at = 7
        answer = server.http.post("/v1/completions", json={"prompt": ["a", "b", "c"], "max_tokens": 9})
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_failed"
    finally:
        server.stop()


def test_an_output_without_a_next_token_is_an_error_and_its_neighbours_go_on(start_server: Start) -> None:
    server = start_server("abcdef")
    try:
        server.executor.ends_at = 3
        body = {"prompt": "x", "max_tokens": 9}
        answer = server.http.post("/v1/completions", json=body | {"n": 2})
        assert answer.status_code == 500 and answer.json()["error"] == {
            "message": "every token was ruled out", "type": "server_error", "param": None, "code": "no_token"
        }  # fmt: skip
        with server.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
            lines = []
            with suppress(httpx.RemoteProtocolError):  # cut without its end, or refused before it began
                for line in response.iter_lines():
                    lines.append(line)
        assert '"code":"no_token"' in "".join(lines) and not any("DONE" in line for line in lines)
        answer = server.http.post("/v1/completions", json=body | {"max_tokens": 3})
        assert answer.json()["choices"][0]["text"] == "abc"
        until(lambda: not blocks_used(server) and server.engines.open_outputs == 0)
    finally:
        server.stop()


def test_a_rank_that_dies_while_idle_ends_the_server(start_server: Start) -> None:
    server = start_server("abc")
    try:
        server.executor.fail_at = -1
        server.loop.call_soon_threadsafe(server.engines.loops[0]._ring)
        server.thread.join(PATIENCE_S)
        assert isinstance(server.engines.failure, PeerError)
    finally:
        server.stop()


def test_stopping_ends_streams_with_an_error_frame(start_server: Start) -> None:
    server = start_server("abc", step_s=0.1)
    with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        server.loop.call_soon_threadsafe(server.engines.stop)
        with pytest.raises(httpx.RemoteProtocolError):
            rest = []
            for line in lines:
                rest.append(line)
    assert '"code":"server_shutting_down"' in rest[-2]
    server.stop()
    assert server.engines.failure is None and server.executor.closed


def test_health_and_readiness(alphabet: Running) -> None:
    assert alphabet.http.get("/health").status_code == 200
    assert alphabet.http.get("/ready").status_code == 200


def test_an_idle_engine_sleeps(alphabet: Running) -> None:
    alphabet.client().completions.create(model="tiny", prompt="x")
    engine = alphabet.engine
    assert engine is not None
    until(lambda: engine.stats().total.running == 0)
    steps = alphabet.executor.steps
    time.sleep(0.2)
    assert alphabet.executor.steps == steps


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", ""])
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="legal: 127.0.0.1, localhost, ::1"):
        bind(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_do_not_exist(port: int) -> None:
    with pytest.raises(ConfigError, match="legal: 0 "):
        bind("127.0.0.1", port)


@pytest.mark.parametrize("stream", [True, False])
def test_a_fault_in_one_request_is_that_requests_alone(
    start_server: Start, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    server = start_server("abc", step_s=0.005)
    try:
        add = Choice.add

        def fails_once(choice: Choice, records: Any) -> Any:
            monkeypatch.setattr(Choice, "add", add)
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(Choice, "add", fails_once)
        if stream:
            with pytest.raises(openai.APIError, match="internal error"):
                list(server.client().completions.create(**LONG_OPENAI, stream=True))
        else:
            answer = server.http.post("/v1/completions", json=LONG)
            assert answer.status_code == 500 and answer.json()["error"]["message"] == "internal error"
        until(lambda: blocks_used(server) == 0)
        assert server.client().completions.create(model="tiny", prompt="x").choices[0].text == "abc"
    finally:
        server.stop()
