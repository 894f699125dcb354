"""The acceptor: every waiting connection in one turn, a pause where descriptors run out, nothing after its end."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import Any

import pytest

from weft.frontend.server.http import accept
from weft.frontend.server.http.accept import Acceptor
from weft.frontend.server.http.listen import bind


class Greeter(asyncio.Protocol):
    """Says hello and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


class Exhausted:
    """A listening socket that has no descriptor left at first."""

    def __init__(self, sock: socket.socket, times: int) -> None:
        self._sock, self.times, self.asked = sock, times, 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def connect(sock: socket.socket) -> socket.socket:
    client = socket.create_connection(sock.getsockname(), timeout=20)
    client.setblocking(False)
    return client


async def said(client: socket.socket) -> bytes:
    async with asyncio.timeout(20):
        return await asyncio.get_running_loop().sock_recv(client, 100)


def noted(made: list[Greeter]) -> Greeter:
    made.append(Greeter())
    return made[-1]


def test_all_that_wait_are_taken_in_one_turn() -> None:
    async def main() -> None:
        sock, made = bind("127.0.0.1", 0), list[Greeter]()
        clients = [connect(sock) for _ in range(50)]
        acceptor = Acceptor(sock, partial(noted, made))
        acceptor._accept()
        assert len(acceptor._tasks) == 50
        assert {await said(client) for client in clients} == {b"hello"} and len(made) == 50
        assert not acceptor._tasks
        acceptor.close()
        for client in clients:
            client.close()

    asyncio.run(main())


def test_a_pause_where_descriptors_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "RETRY_S", 0.05)

    async def main() -> None:
        sock = bind("127.0.0.1", 0)
        short = Exhausted(sock, 3)
        acceptor = Acceptor(short, Greeter)  # type: ignore[arg-type]
        acceptor.open()
        with connect(sock) as client:
            assert await said(client) == b"hello"
        assert short.times == 0 and short.asked <= 3 + 2, "it does not spin"
        acceptor.close()

    asyncio.run(main())


def test_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose protocol has not come yet count; the others wait in the system, until there is room again."""
    monkeypatch.setattr(accept, "FULL_S", 0.01)

    async def main() -> None:
        sock, open_now, made = bind("127.0.0.1", 0), [30], list[Greeter]()
        clients = [connect(sock) for _ in range(5)]
        acceptor = Acceptor(sock, partial(noted, made), room=lambda: 32 - open_now[0])
        acceptor._accept()
        assert len(acceptor._tasks) == 2
        acceptor._accept()
        assert len(acceptor._tasks) == 2, "two are on their way"
        assert {await said(client) for client in clients[:2]} == {b"hello"} and len(made) == 2
        open_now[0] = 0
        assert {await said(client) for client in clients[2:]} == {b"hello"} and len(made) == 5
        acceptor.close()
        for client in clients:
            client.close()

    asyncio.run(main())


def test_no_connection_after_the_end() -> None:
    async def main() -> None:
        sock = bind("127.0.0.1", 0)
        address = sock.getsockname()
        acceptor = Acceptor(sock, Greeter)
        acceptor.open()
        acceptor.close()
        acceptor.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)

    asyncio.run(main())


def test_a_client_that_left_before_is_no_matter() -> None:
    async def main() -> None:
        sock = bind("127.0.0.1", 0)
        connect(sock).close()
        acceptor = Acceptor(sock, Greeter)
        acceptor.open()
        with connect(sock) as client:
            assert await said(client) == b"hello"
        acceptor.close()

    asyncio.run(main())
