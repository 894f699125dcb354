"""Collectives of ranks on several hosts: the same bits as inside one host, and errors that name the rank.

Ranks are processes of this machine that are given hosts of their own: what they say to other hosts goes over TCP.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from weft.base.errors import PeerError
from weft.compute.comm.distributed.handshake import MOST_OF_ADDRESS, LinkToken, UnprovenConnections, introduce
from weft.compute.comm.distributed.links import connect_all, listen

NEVER = 120.0
"""A time limit of the collectives that no test waits for."""
WORLDS = [("tcp", 4), ("tcp_pairs", 3), ("tcp_pairs", 4), ("tcp_threes", 4), ("tcp_threes", 6)]

pytestmark = pytest.mark.usefixtures("native_comm")


@pytest.mark.parametrize(("backend", "world"), WORLDS)
def test_bits_are_those_of_one_host(rank_host: Any, backend: str, world: int) -> None:
    share = {"first": 0, "every": {3: 2, 4: 5, 6: 60}[world]}
    outcome = rank_host.run(backend, world, "conformance", seed=world, drawn=150, most_rows=3000, **share)
    assert [rank.get("error") for rank in outcome["ranks"]] == [None] * world
    assert [rank["value"][1:] for rank in outcome["ranks"]] == [[]] * world


@pytest.mark.parametrize(("backend", "world"), [("tcp", 2), ("tcp", 3), ("tcp_pairs", 4), ("tcp_threes", 6)])
def test_both_sides_of_each_threshold(rank_host: Any, backend: str, world: int) -> None:
    outcome = rank_host.run(
        backend, world, "sizes", kinds=["all_reduce"], bytes=[32 << 10, 1 << 20], around=[-64, 0, 64]
    )
    assert [rank.get("value") for rank in outcome["ranks"]] == [[]] * world, outcome


def test_large_messages(rank_host: Any) -> None:
    """Far more than a socket holds, in both directions at a time."""
    outcome = rank_host.run("tcp", 2, "large", bytes=64 << 20)
    assert [rank.get("value") for rank in outcome["ranks"]] == [[]] * 2, outcome


def test_a_rank_late_for_a_large_message_is_no_fault(rank_host: Any) -> None:
    outcome = rank_host.run("tcp", 2, "late", seconds=5.0, bytes=16 << 20, timeout=NEVER)
    assert [rank.get("value") for rank in outcome["ranks"]] == ["came"] * 2, outcome


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(listen("127.0.0.1")) as sock:
        yield sock


def accepting(
    listener: socket.socket, start: LinkToken, limit_s: float = 20.0
) -> tuple[threading.Thread, list[dict[int, socket.socket] | PeerError]]:
    """Rank 0 of two, in a thread."""
    found: list[dict[int, socket.socket] | PeerError] = []

    def run() -> None:
        try:
            found.append(connect_all(0, {1: ("127.0.0.1", 1)}, listener, start, limit_s))
        except PeerError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def join(listener: socket.socket, start: LinkToken, limit_s: float = 20.0) -> dict[int, socket.socket]:
    """Rank 1 of two."""
    with closing(listen("127.0.0.1")) as own:
        return connect_all(1, {0: listener.getsockname()}, own, start, limit_s)


def test_ranks_of_one_start_find_each_other_among_strangers(listener: socket.socket) -> None:
    start = LinkToken(3, b"t" * 32)
    thread, found = accepting(listener, start)
    strangers = [socket.create_connection(listener.getsockname()) for _ in range(50)]
    for number, stranger in enumerate(strangers):
        stranger.sendall([b"", b"GET / HTTP/1.1\r\n\r\n" * 8, b"\0" * 4096][number % 3])
    links = join(listener, start)
    thread.join()
    (accepted,) = found
    assert isinstance(accepted, dict)
    links[0].sendall(b"hello")
    accepted[1].setblocking(True)
    assert accepted[1].recv(5) == b"hello"
    for sock in (*strangers, *links.values(), *accepted.values()):
        sock.close()


def test_a_connection_that_was_dropped_in_the_same_pass_says_nothing(listener: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        unproven = UnprovenConnections(listener, LinkToken(3, b"t" * 32), selector, lambda *_: True)
        peers = [socket.create_connection(listener.getsockname(), 60) for _ in range(MOST_OF_ADDRESS + 1)]
        unproven.accept()
        (key,) = selector.get_map().values()
        for _ in range(MOST_OF_ADDRESS):
            unproven.accept()
        dropped = key.fileobj
        assert isinstance(dropped, socket.socket) and dropped not in unproven
        assert unproven.read(dropped) is None and len(unproven) == MOST_OF_ADDRESS
        unproven.close()
    for peer in peers:
        peer.close()


OTHERS = {"another token": LinkToken(3, b"x" * 32), "an earlier start": LinkToken(2, b"t" * 32)}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_rank_of_another_start_is_refused(listener: socket.socket, other: LinkToken) -> None:
    thread, found = accepting(listener, LinkToken(3, b"t" * 32), limit_s=1.5)
    with pytest.raises(PeerError, match="rank 1 cannot reach rank 0 at 127.0.0.1:"):
        join(listener, other, limit_s=1.0)
    thread.join()
    assert str(found[0]).startswith("rank 1 did not connect to rank 0, which listens at 127.0.0.1:")


def test_a_stranger_that_connects_learns_nothing_that_depends_on_the_secret(listener: socket.socket) -> None:
    """Two acceptors with other secrets greet alike, and refuse a wrong proof alike."""
    heard = []
    for token in (b"t" * 32, b"u" * 32):
        thread, found = accepting(listener, LinkToken(3, token), limit_s=1.0)
        with closing(socket.create_connection(listener.getsockname(), 60)) as sock:
            greeting = sock.recv(1000)
            sock.sendall(b"\0" * (32 + 32))
            heard.append((greeting[:8], len(greeting), sock.recv(1000)))
        thread.join()
        assert isinstance(found[0], PeerError)
    assert heard[0] == heard[1] == (b"WEFTLNK2", 24, b"\0\1")


def test_a_listener_that_cannot_prove_itself_is_left(listener: socket.socket) -> None:
    received: list[bytes] = []

    def impostor() -> None:
        sock, _ = listener.accept()
        sock.sendall(b"WEFTLNK2" + os.urandom(16))
        received.append(sock.recv(1000))
        sock.sendall(b"\1" + os.urandom(32))
        received.append(sock.recv(1000))
        sock.close()

    thread = threading.Thread(target=impostor)
    thread.start()
    start = LinkToken(1, b"t" * 32)
    with (
        closing(socket.create_connection(listener.getsockname(), 60)) as sock,
        pytest.raises(PeerError, match="does not know this start's token"),
    ):
        introduce(sock, 1, 0, start)
    thread.join()
    assert len(received[0]) == 64 and received[1] == b""


def test_a_missing_rank_is_named(listener: socket.socket) -> None:
    with pytest.raises(PeerError, match="ranks 1, 2 did not connect to rank 0"):
        connect_all(0, {1: ("127.0.0.1", 1), 2: ("127.0.0.1", 1)}, listener, LinkToken(1, b"t" * 32), 0.3)
