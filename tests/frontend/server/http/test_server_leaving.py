"""Clients that leave: how many steps still run for them, counted from when the server has seen it, and their blocks."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import pytest

from tests.frontend.server.conftest import Running, Start
from tests.support.fakes.fake_executor import ScriptedAsyncExecutor, ScriptedExecutor
from tests.support.waiting import PATIENCE_S, until
from weft.frontend.server.http import middleware
from weft.frontend.server.http.buffered_transport import BufferedTransport

LONG: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 190, "ignore_eos": True}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 100, "ignore_eos": True}
STEPS = 2
"""That may end after the server has seen that the client is gone: the current one, and one that was planned ahead."""


def blocks_used(server: Running) -> int:
    return server.engine.stats().total.blocks_used


def posted(server: Running, body: dict[str, Any], path: str = "/v1/completions") -> socket.socket:
    """A connection with a request on it, whose client leaves when it is closed."""
    sock = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=PATIENCE_S)
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    sock.sendall(f"{head}content-length: {len(text)}\r\n\r\n".encode() + text)
    return sock


@pytest.mark.parametrize("ranks", [ScriptedExecutor, ScriptedAsyncExecutor])
@pytest.mark.parametrize("before", [0, 3], ids=["before the first token", "in the middle"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", LONG | {"stream": True}),
        ("/v1/completions", LONG),
        ("/v1/completions", LONG | {"n": 3, "prompt": ["x", "y"], "stream": True}),
        ("/v1/completions", LONG | {"n": 3, "prompt": ["x", "y"]}),
        ("/v1/chat/completions", CHAT | {"n": 2, "stream": True}),
        ("/v1/chat/completions", CHAT),
    ],
    ids=["stream", "whole", "stream of several", "several whole", "chat of several", "chat whole"],
)
def test_work_ends_when_a_client_leaves(
    start_server: Start, ranks: type[ScriptedExecutor], before: int, path: str, body: dict[str, Any]
) -> None:
    server = start_server("abcdef", ranks=ranks)
    executor = server.executor
    executor.permits = threading.Semaphore(before)
    try:
        with posted(server, body, path) as sock:
            until(lambda: executor.admitted > 0 and executor.steps == before, "the next step waits for a permit")
            if before and body.get("stream"):
                data = b""
                while b"data: " not in data:  # what a slow front end finds together it sends together
                    data += sock.recv(65536)
        until(lambda: server.engines.open_outputs == 0, "the server has not seen it")
        assert executor.steps == before
        executor.permits.release(100)
        until(lambda: not server.engine.has_work)
        assert executor.steps <= before + STEPS and blocks_used(server) == 0
        again = server.http.post("/v1/completions", json=LONG | {"max_tokens": 5})
        assert again.json()["usage"]["completion_tokens"] == 5
        assert blocks_used(server) == 0
    finally:
        executor.permits.release(10_000)
        server.stop()


def test_a_client_that_leaves_the_queue_is_never_run(start_server: Start) -> None:
    server = start_server("abc", max_num_seqs=1)
    try:
        server.executor.gate.clear()
        with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True}):
            with posted(server, LONG | {"n": 2}):
                until(lambda: server.engines.open_outputs == 3)
            until(lambda: server.engines.open_outputs == 1)
            server.executor.gate.set()
        until(lambda: server.engines.open_outputs == 0 and blocks_used(server) == 0)
        assert server.executor.admitted == 1
    finally:
        server.stop()


def test_who_left_before_an_answer_is_logged_as_counted(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[int] = []

    async def silent(*_: object) -> Any:
        """An application that sends nothing, as where the client is gone."""

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": [], "client": ("1.2.3.4", 5)}
    application = middleware.RequestMiddleware(
        silent, lambda handler, method, status, seconds: counted.append(status), access_log=True
    )
    with caplog.at_level("INFO", logger="weft"):
        asyncio.run(application(scope, silent, silent))
    assert counted == [499]
    assert [record.getMessage().split()[:4] for record in caplog.records] == [["1.2.3.4", "GET", "/health", "499"]]


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/v1/completions", LONG | {"max_tokens": 5}, b'"completion_tokens":5'),
        ("/v1/completions", LONG | {"max_tokens": 5, "stream": True}, b"data: [DONE]"),
        ("/v1/completions", LONG | {"temperature": -1}, b'"param":"temperature"'),
    ],
    ids=["whole", "stream", "refused"],
)
def test_a_client_that_has_ended_its_side_is_answered(
    start_server: Start, path: str, body: dict[str, Any], end: bytes
) -> None:
    """While the first step waits the server asks, again and again, whether the client still reads."""
    server = start_server("abcdef", ranks=ScriptedExecutor)
    executor = server.executor
    executor.permits = threading.Semaphore(0)
    try:
        with posted(server, body, path) as sock:
            sock.shutdown(socket.SHUT_WR)
            if end != b'"param":"temperature"':
                until(lambda: executor.admitted > 0)
                found = sock.recv(65536)
                while found.count(b"HTTP/1.1 100 ") < 3:
                    found += sock.recv(65536)
            executor.permits.release(1000)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert end in answer and b"x-request-id" in answer
    finally:
        executor.permits.release(10_000)
        server.stop()


def test_requests_before_the_end_of_a_client_s_side_are_all_answered(start_server: Start) -> None:
    server = start_server("abcdef", ranks=ScriptedExecutor)
    try:
        with posted(server, LONG | {"max_tokens": 3}) as sock:
            sock.sendall(
                b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\nGET /version HTTP/1.1\r\nhost: localhost\r\n\r\n"
            )
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.count(b"HTTP/1.1 200 ") == 3 and answer.count(b'"version"') == 2
    finally:
        server.stop()


class LostTransport(asyncio.Transport):
    """As uvloop's of a connection that the client has reset."""

    def is_closing(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        raise RuntimeError("the handler is closed")


def test_what_is_gathered_for_a_lost_connection_is_dropped() -> None:
    failed: list[dict[str, Any]] = []

    async def written() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failed.append(context))
        BufferedTransport(LostTransport(), loop).write(b"x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(written())
    assert not failed
