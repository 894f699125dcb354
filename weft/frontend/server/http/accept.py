"""Acceptor: accepts all connections that wait on a listening socket in one iteration of the event loop.

asyncio's own servers accept one connection in each iteration. With many streams an iteration is long, and of some
hundred clients that connect together the last would wait for as many iterations.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

from weft.base.log import get_logger

_log = get_logger(__name__)

AT_ONCE = 512
"""Connections accepted in one iteration of the event loop."""
FULL_S = 0.05
"""Seconds until the next check for room, when there was none."""
RETRY_S = 0.5
"""Seconds until the next attempt, when the process or the machine had no descriptor or memory left."""
HANDSHAKE_S = 10.0
"""Seconds that a TLS handshake may take."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Owns the listening socket `sock`; from `open` to `close` each of its connections gets a protocol of `make`.

    `room`: how many more connections may have a protocol. One in its TLS handshake has none yet; they are counted here.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None = None,
        room: Callable[[], int] = lambda: AT_ONCE,
    ) -> None:
        sock.setblocking(False)
        self._sock, self._make, self._tls, self._room = sock, make, tls, room
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Starts to accept connections, or continues after a pause."""
        self._retry = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Stops accepting and closes the socket; accepted connections stay."""
        if self._retry is not None:
            self._retry.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _accept(self) -> None:
        room = self._room() - len(self._tasks)
        if room <= 0:
            self._pause(FULL_S)
        for _ in range(min(AT_ONCE, room)):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _log.warning("no new connections for %g s: %s", RETRY_S, error.strerror)
                self._pause(RETRY_S)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _pause(self, seconds: float) -> None:
        """The socket stays readable while connections wait: without a pause the event loop would spin."""
        self._loop.remove_reader(self._sock.fileno())
        self._retry = self._loop.call_later(seconds, self.open)

    async def _begin(self, connection: socket.socket) -> None:
        limit = None if self._tls is None else HANDSHAKE_S
        try:
            await self._loop.connect_accepted_socket(self._make, connection, ssl=self._tls, ssl_handshake_timeout=limit)
        except OSError as error:  # the client has left, or offers no TLS that this server takes
            connection.close()
            _log.debug("a connection failed before its first request: %s", error)
