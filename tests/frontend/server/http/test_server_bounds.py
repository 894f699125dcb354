"""Bounds in size and time: heads, bodies, queues, clients that do not read. Raw sockets where a client misbehaves."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.frontend.server.conftest import Running, Start
from tests.support.waiting import PATIENCE_S, until
from weft.frontend.server import replies
from weft.frontend.server.http import body, connection
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.http.connection import Connection
from weft.frontend.server.http.listen import bind
from weft.frontend.serving import queue_timeout

LONG: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 190, "ignore_eos": True}


def connect(server: Running, receive_buffer: int | None = None) -> socket.socket:
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE_S)
    sock.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    return sock


def answer(server: Running, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of what comes before the server closes."""
    with connect(server) as sock:
        for part in parts:
            sock.sendall(part)
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), dict(json.loads(rest)["error"])


def received(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = sock.recv(65536)
        assert part, data
        data += part
    return data


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ((HEAD + b"x-a: " + b"y" * 70_000 + b"\r\n\r\n",), 431, "head_too_large"),
        ((HEAD + b"x-a: " + b"y" * 70_000,), 431, "head_too_large"),
        ((b"GET /" + b"y" * 70_000,), 431, "head_too_large"),
        ((b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",), 431, "head_too_large"),
        ((HEAD + b"".join(b"x-%d: y\r\n" % i for i in range(200)) + b"\r\n",), 431, "head_too_large"),
        ((HEAD + b"".join(b"x-%d: y\r\n" % i for i in range(10_000)),), 431, "head_too_large"),
        ((b"nonsense\r\n\r\n",), 400, "invalid_http"),
        ((b"\x16\x03\x01\x02\x00\x01",), 400, "invalid_http"),
        ((HEAD + b"content-length: minus\r\n\r\n",), 400, "invalid_http"),
        ((HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",), 400, "invalid_http"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_heads_that_are_none(alphabet: Running, parts: tuple[bytes, ...], status: int, code: str) -> None:
    got, error = answer(alphabet, *parts)
    assert (got, error["code"]) == (status, code)
    assert alphabet.http.get("/health").status_code == 200


def test_a_long_body_behind_a_short_head_is_no_long_head(alphabet: Running) -> None:
    text = json.dumps({"prompt": "x", "max_tokens": 2, "user": "y" * 100_000}).encode()
    with connect(alphabet) as sock:
        for _ in range(3):
            sock.sendall(HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text)
            assert received(sock, b'"prompt_logprobs":null}').startswith(b"HTTP/1.1 200 OK")


def test_a_head_that_takes_too_long(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_s", 0.2)
    server = start_server("abc")
    try:
        assert answer(server)[0] == 408
        assert answer(server, HEAD)[0] == 408
        monkeypatch.setattr(Connection, "head_s", 2.0)
        with connect(server) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"200 OK" in received(sock, b'"ok"}')
            sock.sendall(b"GET /hea")
            assert b"408" in received(sock, b"}}") and sock.recv(1) == b""
    finally:
        server.stop()


def test_a_thousand_heads_that_never_end(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are answered when their time is over; a stream beside them, and a request, are not disturbed."""
    monkeypatch.setattr(Connection, "head_s", 3.0)
    server = start_server("abc", step_s=0.02)
    try:
        with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
            held = [connect(server) for _ in range(1000)]
            for number, sock in enumerate(held):
                sock.sendall((b"", HEAD, b"GET /", b"POST / HTTP/1.1\r\nx: ")[number % 4])
            assert server.http.post("/v1/completions", json=LONG | {"max_tokens": 3}).status_code == 200
            answers = [sock.recv(65536)[:12] for sock in held]
            assert response.read().endswith(b"data: [DONE]\n\n")
        assert set(answers) == {b"HTTP/1.1 408"}
        for sock in held:
            sock.close()
    finally:
        server.stop()


def test_a_body_that_takes_too_long(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_S", 0.2)
    server = start_server("abc")
    try:
        head = HEAD + b"connection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        status, error = answer(server, head, b'{"prompt": "x')
        assert (status, error["code"]) == (408, "request_timeout")
    finally:
        server.stop()


def test_a_connection_too_many(start_server: Start) -> None:
    server = start_server("abc", http=HttpConfig(max_connections=3))
    try:
        held = [connect(server) for _ in range(3)]
        until(lambda: answer(server)[0] == 503)
        for sock in held:
            sock.close()
        until(lambda: healthy(server))
    finally:
        server.stop()


def healthy(server: Running) -> bool:
    """A connection too many is answered and closed, whatever it was about to say."""
    with suppress(httpx.TransportError):
        return server.http.get("/health").status_code == 200
    return False


def test_a_body_that_says_it_is_too_long_is_not_awaited(alphabet: Running) -> None:
    head = HEAD + b"connection: close\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n"
    assert answer(alphabet, head)[0] == 413


def test_who_sends_all_before_looking_sees_the_answer_too(alphabet: Running) -> None:
    body = b'{"prompt": "' + b"x" * (24 << 20) + b'"}'
    for path, status in (("/v1/completions", 413), ("/nowhere", 404)):
        client = http.client.HTTPConnection("127.0.0.1", int(alphabet.url.rsplit(":", 1)[1]), timeout=PATIENCE_S)
        client.request("POST", path, body, {"connection": "close", "content-type": "application/json"})
        got = client.getresponse()
        assert got.status == status and json.loads(got.read())["error"]["message"]
        client.close()


def test_who_goes_on_sending_is_cut_off(alphabet: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.2)
    with connect(alphabet) as sock, pytest.raises(OSError, match=r"(Broken pipe|reset by peer)"):
        sock.sendall(HEAD + b"connection: close\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        until(lambda: sock.send(b"x") == 0)


def test_what_is_no_request_is_answered_with_an_id_too(alphabet: Running) -> None:
    found = set[str]()
    for sent in (b"nonsense\r\n\r\n", HEAD + b"x-a: " + b"y" * 70_000):
        with connect(alphabet) as sock:
            sock.sendall(sent)
            head = received(sock, b"}}").partition(b"\r\n\r\n")[0].decode()
        found |= {line for line in head.splitlines() if line.startswith("x-request-id: ")}
    assert len(found) == 2 and all(len(line) == len("x-request-id: ") + 32 for line in found)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("in_hand", [True, False])
def test_who_waits_too_long_is_told_and_never_run(
    start_server: Start, monkeypatch: pytest.MonkeyPatch, stream: bool, own: bool, in_hand: bool
) -> None:
    """Between two steps, and during one that does not end; then half a second late at the most."""
    assert queue_timeout.STEP_IN_HAND_S <= 0.5
    if not in_hand:
        monkeypatch.setattr(queue_timeout, "STEP_IN_HAND_S", 600.0)
    config = HttpConfig(queue_timeout=600.0 if own else 0.2)
    server = start_server("abc", max_num_seqs=1, http=config)
    server.executor.permits = permits = threading.Semaphore(1)
    told = threading.Event()
    steps = threading.Thread(target=trickle, args=(permits, 0 if in_hand else 100, told))
    try:
        with server.http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as running:
            until(lambda: server.executor.steps == 1)
            late = LONG | {"prompt": ["y", "z"], "stream": stream} | ({"timeout": 0.2} if own else {})
            began = time.monotonic()
            steps.start()
            with server.http.stream("POST", "/v1/completions", json=late) as waiting:
                text = "".join(waiting.iter_lines()) if not stream else _cut(waiting)
            assert time.monotonic() - began >= 0.2, "not before its time"
            assert "deadline_exceeded" in text and (stream or waiting.status_code == 504)
            told.set()
            permits.release(1000)
            assert running.read().endswith(b"data: [DONE]\n\n")
        until(lambda: server.engines.open_outputs == 0)
        assert server.executor.admitted == 1
    finally:
        told.set()
        permits.release(1000)
        steps.join(PATIENCE_S)
        server.stop()


def trickle(permits: threading.Semaphore, steps: int, enough: threading.Event) -> None:
    """Lets a step go every 50 ms, at most so many."""
    for _ in range(steps):
        if enough.wait(0.05):
            return
        permits.release()


def _cut(response: Any) -> str:
    lines = []
    try:
        for line in response.iter_lines():
            lines.append(line)
    except Exception as error:  # the stream ends without an end
        assert "incomplete" in str(error)
    assert not any("DONE" in line for line in lines)
    return "".join(lines)


def test_who_runs_is_not_too_late(start_server: Start) -> None:
    """Its patience ends in the middle of its answer."""
    server = start_server("abc", step_s=0.012)
    try:
        began = time.monotonic()
        answer = server.http.post("/v1/completions", json=LONG | {"timeout": 2.0})
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 190
        assert time.monotonic() - began > 2.0, "sleeps are never shorter than they should be"
    finally:
        server.stop()


def narrow() -> socket.socket:
    """Listens; what the kernel buffers of an answer that is not read is little."""
    sock = bind("127.0.0.1", 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    return sock


def test_who_does_not_read_pauses_and_goes_on(start_server: Start) -> None:
    server = start_server("abcdefghij" * 100, longest=8_000, sock=narrow(), step_s=0.005)
    try:
        engine = server.engine
        assert engine is not None
        ask = json.dumps(LONG | {"max_tokens": 4_000, "stream": True}).encode()
        with connect(server, receive_buffer=4096) as sock:
            sock.sendall(HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ask) + ask)
            stats = engine.stats
            until(lambda: stats().total.generated_tokens > 0 and stats().total.running == 0, limit_s=200)
            paused_at = engine.stats().total.generated_tokens
            assert paused_at < 4_000 and engine.stats().total.blocks_used == 0 and server.engines.open_outputs == 1
            server.executor.step_s = 0.0
            other = server.http.post("/v1/completions", json=LONG)
            assert other.json()["usage"]["completion_tokens"] == 190
            data = b""
            while b"data: [DONE]" not in data[-100:]:
                data += sock.recv(65536)
        text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in _events(data))
        period = "abcdefghij" * 100
        assert text == (period * 5)[: len(text)] and 3_900 < len(text) <= 4_000
    finally:
        server.stop()


def _events(data: bytes) -> list[str]:
    """The events of a chunked body; a chunk may end anywhere."""
    rest, whole = data.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        whole, rest = whole + rest[:length], rest[length + 2 :]
    lines = [line for line in whole.decode().split("\n\n") if line.startswith("data: ")]
    return [line for line in lines if line != "data: [DONE]"]


def test_who_never_reads_is_cut_off(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies._Reply, "unread_s", 0.3)
    server = start_server("abcdefghij", longest=8_000, sock=narrow(), step_s=0.005)
    try:
        ask = json.dumps(LONG | {"max_tokens": 4_000, "stream": True}).encode()
        with connect(server, receive_buffer=4096) as sock:
            sock.sendall(HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ask) + ask)
            until(lambda: server.executor.steps > 0)
            until(lambda: server.engines.open_outputs == 0)
        engine = server.engine
        assert engine is not None
        until(lambda: engine.stats().total.blocks_used == 0)
        assert server.executor.steps < 4_000
    finally:
        server.stop()


@pytest.mark.parametrize("kind", [replies.WholeReply, replies.EventReply])
def test_a_last_write_that_nobody_reads_is_no_defect(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `send` raises there has nowhere to go: outside of the reply it would be a traceback in the log."""
    monkeypatch.setattr(replies._Reply, "unread_s", 0.05)
    told: list[object] = []

    async def last_write(self: replies._Reply, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"[DONE]"})
        told.append("sent")

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(kind, "_send", last_write)
    stream = SimpleNamespace(request_ids=("a",), replica=0, let_go=lambda: told.append("let go"))
    engines = SimpleNamespace(tell=lambda *_: None, close_stream=lambda _: told.append("closed"))
    answer = SimpleNamespace(stream=stream, patience_s=60.0, watch=SimpleNamespace(failed=told.append))
    scope = {"state": {connection.ABORT: lambda: told.append("cut")}}
    asyncio.run(kind(engines, answer)(scope, never, never))
    assert told == ["cut", 499, "closed", "let go"]
