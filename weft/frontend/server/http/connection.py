"""One client's connection: uvicorn's protocol with bounds on the head of a request and errors as JSON.

Bounds on a request's head are kept here because nothing above sees a head that never ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from weft.base.errors import RequestError
from weft.base.machine.fd_limits import MOST_CONNECTIONS
from weft.frontend.server.errors import error_bytes
from weft.frontend.server.http.buffered_transport import BufferedTransport
from weft.frontend.server.http.middleware import request_ids

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers."""
MAX_HEADERS = 100
HEAD_S = 10.0
"""Seconds that a request's head may take."""
LINGER_S = 2.0
"""Seconds that a client may go on sending a body after its answer: the system cuts a connection that is closed with
unread bytes, and with it goes the answer that the client has not looked at yet."""

MOST_UNSENT = 4 * 1024
"""Bytes that a connection holds for a client that does not read before its stream is paused."""

PROBE_S, LONGEST_PROBE_S = 0.02, 1.0
"""First and longest time between two looks whether a client that has ended its side still reads."""
INTERIM, COMMENT = b"HTTP/1.1 100 Continue\r\n\r\n", b":\n\n"
"""What clients skip: before an answer's head, and in a stream of events."""

ABORT = "weft.abort"
"""Key of the scope's state: a function that ends the connection without sending what is buffered."""


WRITE = "weft.write"
"""Key of the scope's state: `Connection.write_chunk`."""


class Connection(HttpToolsProtocol):
    """The bounds are class attributes, so that tests can lower them."""

    max_head, max_headers, head_s = MAX_HEAD, MAX_HEADERS, HEAD_S
    _timer: asyncio.TimerHandle | None = None
    _new_id = staticmethod(request_ids())
    _in_head = True
    _lingering = False
    """Answered and closed for writing; what still comes is dropped."""
    _half_closed = False
    """The client has ended its side: what it asked for is answered, then the connection ends."""
    _probe: asyncio.TimerHandle | None = None
    _head_left = MAX_HEAD
    """Bytes that may still come before the head is whole."""

    def __init__(self, *settings: Any, max_connections: int = MOST_CONNECTIONS) -> None:
        super().__init__(*settings)
        self._max_connections = max_connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuses a connection above the limit; starts the timer of the first head."""
        gathered = BufferedTransport(cast("asyncio.Transport", transport), self.loop, self._lingers)
        super().connection_made(cast("asyncio.Transport", gathered))
        gathered.set_write_buffer_limits(high=MOST_UNSENT)
        self._expect_head()
        if len(self.connections) > self._max_connections:
            self._refuse(RequestError("too many connections", status=503, code="too_many_connections"))
        else:
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers, and drops references that would keep this object alive until a garbage collection."""
        self._stop_clock()
        if self._probe is not None:
            self._probe.cancel()
        super().connection_lost(exc)
        cast("BufferedTransport", self.transport).let_go()
        if self.scope is not None:
            self.scope["state"].pop(ABORT, None)
            self.scope["state"].pop(WRITE, None)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of a head that is not whole yet, wherever they stand in it."""
        if self._lingering:
            return
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_left -= len(data)
            if self._timer is None:
                self._start_clock()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # a client may offer another protocol; not taking it up is legal
        except httptools.HttpParserError as error:
            known = error.__context__ if isinstance(error.__context__, RequestError) else None
            self._refuse(known or RequestError("this is no valid HTTP request", code="invalid_http"))
            return
        if self._in_head and self._head_left < 0:
            self._refuse(_head_too_large())

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. True: it may still read the answers to what it asked for, as after `nc -N`."""
        can_probe = self.transport.can_write_eof() and self.scope and self.scope["http_version"] == "1.1"
        if self._lingering or not self._in_head or self._answered or not can_probe:
            cast("BufferedTransport", self.transport).flush()
            return False  # nothing is open, or a request that can never be whole
        self._half_closed = True
        self._probe_client(PROBE_S)
        return True

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _probe_client(self, wait_s: float) -> None:
        """A client that has closed its whole connection looks the same. The system refuses what is written to that one,
        so that its work ends."""
        if self._answered or self.transport.is_closing():
            return
        if not self.cycle.response_started:
            self.transport.write(INTERIM)
        elif self.cycle.chunked_encoding:
            self.write_chunk(COMMENT)
        self._probe = self.loop.call_later(wait_s, self._probe_client, min(2 * wait_s, LONGEST_PROBE_S))

    def on_response_complete(self) -> None:
        """After the last answer to a client that sends no more, the end."""
        super().on_response_complete()
        if self._half_closed and self._answered:
            self.transport.close()

    def on_message_begin(self) -> None:
        """A new head: gives the handler the functions that write to the connection and cut it."""
        super().on_message_begin()
        self._size = 0
        self.scope["state"][ABORT] = self.transport.abort
        self.scope["state"][WRITE] = self.write_chunk

    def on_header(self, name: bytes, value: bytes) -> None:
        """Another header."""
        super().on_header(name, value)
        self._size += len(name) + len(value)
        if len(self.headers) > self.max_headers or self._size + len(self.url) > self.max_head:
            raise _head_too_large()

    def on_headers_complete(self) -> None:
        """The head is whole: from here the body's own clock runs."""
        self._in_head = False
        self._stop_clock()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next byte belongs to another head."""
        super().on_message_complete()
        self._expect_head()

    def write_chunk(self, data: bytes) -> bool:
        """A part of the body of a chunked answer that has begun, at once. False: the client has left, or reads too
        slowly to take it now."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def _lingers(self) -> bool:
        """Whether a close waits for the client, which is still sending a body that is not read."""
        if self._lingering or self._in_head or not self.transport.can_write_eof():
            return False
        self._lingering = True
        self.transport.write_eof()
        self.flow.resume_reading()
        self._stop_clock()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)
        return True

    def _expect_head(self) -> None:
        self._in_head, self._head_left = True, self.max_head

    def _start_clock(self) -> None:
        self._timer = self.loop.call_later(self.head_s, self._too_slow)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        message = f"the head of the request took longer than {self.head_s:g} s"
        self._refuse(RequestError(message, status=408, code="request_timeout"))

    def _refuse(self, error: RequestError) -> None:
        """Answers where nothing has been answered yet, and closes."""
        self._stop_clock()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_answer(error, self._new_id()))
        self.transport.close()


def _head_too_large() -> RequestError:
    message = f"the head of the request is longer than {MAX_HEAD} bytes or {MAX_HEADERS} headers"
    return RequestError(message, status=431, code="head_too_large")


def _answer(error: RequestError, request_id: bytes) -> bytes:
    body = error_bytes(error)
    head = [
        STATUS_LINE[error.status],
        b"content-type: application/json\r\nconnection: close\r\n",
        b"x-request-id: %b\r\n" % request_id,
        b"content-length: %d\r\n\r\n" % len(body),
    ]
    return b"".join((*head, body))


def abort(scope: Any) -> None:
    """Cuts the connection of an ASGI scope, without sending what is buffered for it."""
    cut = scope.get("state", {}).get(ABORT)
    if cut is not None:
        cut()


def chunk_writer(scope: Any) -> Callable[[bytes], bool]:
    """`Connection.write_chunk` of an ASGI scope; where there is none, a function that takes nothing."""
    write: Callable[[bytes], bool] = scope.get("state", {}).get(WRITE, lambda data: False)
    return write
