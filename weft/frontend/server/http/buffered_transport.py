"""BufferedTransport: writes of one turn of the event loop go out as one. A system call costs more than a frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class BufferedTransport:
    """Around an asyncio transport; everything but writing and ending is its own."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        lingers: Callable[[], bool] | None = None,
    ) -> None:
        """`lingers` is asked before a close: True, and the callback closes later."""
        self._transport, self._loop, self._lingers = transport, loop, lingers
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """With the next turn of the loop."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """What has been gathered, now. A connection that has been lost meanwhile takes nothing."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """After what has been gathered."""
        self.flush()
        if self._lingers is None or not self._lingers():
            self._transport.close()

    def let_go(self) -> None:
        """The connection is lost: what refers back to its protocol goes, so that both are freed now."""
        self._lingers = None

    def abort(self) -> None:
        """At once; what has been gathered is dropped."""
        self._parts.clear()
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
