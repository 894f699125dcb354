"""Bounds of memory: all bodies together, a machine that is short of it, answers that clients do not read."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.frontend.server.conftest import Running, Start
from tests.frontend.server.http.test_server_bounds import HEAD, connect, healthy, narrow
from tests.support.waiting import PATIENCE_S, until
from weft.base.errors import RequestError
from weft.base.machine.control_groups import memory_shares
from weft.frontend.server import app, replies
from weft.frontend.server.http.body import SHORT_BODY, BodyBudget
from weft.frontend.server.http.connection import MOST_UNSENT
from weft.frontend.server.http.memory import LOOK_S, MemoryGuard
from weft.frontend.serving.stream import MOST_UNREAD

MIB = 1 << 20


def test_long_bodies_leave_room_for_short_ones() -> None:
    budget = BodyBudget(10 * MIB, 4 * MIB)
    budget.take(0, 6 * MIB)
    with pytest.raises(RequestError) as caught:
        budget.take(0, SHORT_BODY + 1)
    assert (caught.value.status, caught.value.code) == (503, "insufficient_memory")
    for _ in range(4 * MIB // SHORT_BODY):
        budget.take(0, SHORT_BODY)
    with pytest.raises(RequestError):
        budget.take(0, 1)
    budget.give_back(6 * MIB)
    budget.take(SHORT_BODY, 2 * MIB)


def unfinished(server: Running, length: int) -> socket.socket:
    """A body of 15 MiB of which `length` bytes come."""
    sock = connect(server)
    sock.sendall(HEAD + b"content-length: %d\r\n\r\n" % (15 * MIB))
    sock.sendall(b" " * length)
    return sock


def test_bodies_that_never_end_do_not_keep_others_out(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = BodyBudget(8 * MIB, MIB)
    monkeypatch.setattr(app, "BodyBudget", lambda: budget)
    server = start_server("abc")
    try:
        socks = [unfinished(server, 2 * MIB) for _ in range(3)]
        until(lambda: budget.held == 6 * MIB)
        with unfinished(server, 2 * MIB) as refused:
            head = refused.recv(65536).decode()
        assert head.startswith("HTTP/1.1 503") and "retry-after: 1" in head and "insufficient_memory" in head
        assert healthy(server)
        for sock in socks:
            sock.close()
        until(lambda: budget.held == 0)
        assert healthy(server)
    finally:
        server.stop()


def test_requests_are_shed_while_memory_is_short() -> None:
    clock, left = [0.0], [1000]
    guard = MemoryGuard(lambda: [(900, 1000), (left[0], 1000)], lambda: clock[0])
    guard.check()
    left[0] = 49
    guard.check()
    clock[0] += LOOK_S
    with pytest.raises(RequestError) as caught:
        guard.check()
    assert (caught.value.status, caught.value.code) == (503, "insufficient_memory")
    left[0], clock[0] = 50, 2 * LOOK_S
    guard.check()
    large = MemoryGuard(lambda: [(2 << 30, 1 << 40)])
    large.check()


def test_the_server_sheds_with_a_status(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MemoryGuard", lambda: MemoryGuard(lambda: [(0, 1 << 30)]))
    server = start_server("abc")
    try:
        answer = server.http.post("/v1/completions", json={"prompt": "x"})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "insufficient_memory"
        assert server.http.get("/health").status_code == 200
    finally:
        server.stop()


def test_the_machine_s_memory_is_read() -> None:
    shares = memory_shares()
    assert shares and all(0 <= left <= whole for left, whole in shares)


def test_answers_that_are_not_read_stay_small(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of 64 outputs: it pauses when some steps wait for its reader, before the time for that is over."""
    monkeypatch.setattr(replies, "PAUSE_AFTER_S", PATIENCE_S)
    server = start_server("abc" * 400, longest=1000, max_num_seqs=64, max_queued=64, sock=narrow(), step_s=0.002)
    body: dict[str, Any] = {"prompt": "x", "n": 64, "stream": True, "max_tokens": 900}
    data = json.dumps(body).encode()
    try:
        with connect(server, receive_buffer=4096) as sock:
            sock.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(data) + data)
            until(lambda: len(server.engines._open) == 1)
            (stream,) = server.engines._open._open
            stats = server.engine.stats
            until(lambda: stats().total.generated_tokens > 0 and stats().total.running == 0, limit_s=200)
            assert stats().total.generated_tokens < 64 * 900 / 2
            assert len(stream.arrived) > MOST_UNREAD
            assert server.http.post("/v1/completions", json={"prompt": "y"}, timeout=PATIENCE_S).status_code == 200
    finally:
        server.stop()


def test_a_connection_holds_little_for_a_reader() -> None:
    assert MOST_UNSENT <= 4 << 10
