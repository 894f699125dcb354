"""Acceptor: takes every connection that waits on a listening socket in one turn of the event loop.

The event loop's own servers take one connection of a socket in each turn. Where turns are long, since many streams run,
the last of some hundred clients that come together would wait for as many turns.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

from weft.log import get_logger

_log = get_logger(__name__)

AT_ONCE = 512
"""Connections taken before the loop looks at the others again."""
FULL_S = 0.05
"""After which it is looked again whether there is room for one more."""
RETRY_S = 0.5
"""After which it is tried again, where this process or machine has no descriptor or memory left for one more."""
HANDSHAKE_S = 10.0
"""Seconds that a TLS handshake may take."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Owns `sock`, which listens; from `open` to `close` each of its connections gets a protocol of `make`.

    `room`: how many more there may be beside those that have their protocol; with TLS that comes late.
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
        """Begins, or goes on."""
        self._retry = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Takes no connection any more; those that were taken live on."""
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
        """The waiting connections keep the socket readable: without a pause the loop would spin."""
        self._loop.remove_reader(self._sock.fileno())
        self._retry = self._loop.call_later(seconds, self.open)

    async def _begin(self, connection: socket.socket) -> None:
        limit = None if self._tls is None else HANDSHAKE_S
        try:
            await self._loop.connect_accepted_socket(self._make, connection, ssl=self._tls, ssl_handshake_timeout=limit)
        except OSError as error:  # gone already, or no TLS that fits: the client's affair
            connection.close()
            _log.debug("a connection did not come about: %s", error)
