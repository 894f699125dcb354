"""The body of a request: within its limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from weft.base.errors import RequestError

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request's body."""
MOST_BODIES = 128 * 1024 * 1024
"""Bytes of all bodies together, from their first byte until they have become requests."""
SHORT_BODY, KEPT_FOR_SHORT = 64 * 1024, 32 * 1024 * 1024
"""A part of them is kept for short bodies, so that long ones that never end do not keep them out."""
BODY_S = 30.0
"""Seconds that a body may take."""


SMALL = 32 * 1024
"""Bytes of a body that becomes a request in the event loop: about a millisecond."""

T = TypeVar("T")
P = ParamSpec("P")


class BodyBudget:
    """Bytes that all bodies together may hold. Belongs to the event loop."""

    def __init__(self, most: int = MOST_BODIES, kept_for_short: int = KEPT_FOR_SHORT) -> None:
        self._most, self._kept = most, kept_for_short
        self.held = 0

    def take(self, before: int, more: int) -> None:
        """A body of `before` bytes gets `more`. RequestError (503): there is no room."""
        room = self._most - (self._kept if before + more > SHORT_BODY else 0) - self.held
        if more > room:
            message = "the bodies of other requests take all memory that is kept for bodies; try again"
            raise RequestError(message, status=503, code="insufficient_memory")
        self.held += more

    def give_back(self, length: int) -> None:
        """A body of `length` bytes is gone."""
        self.held -= length


async def read_body(request: Request, budget: BodyBudget) -> bytes:
    """The body, as JSON; its length is to be given back to the budget. RequestError: another kind (415), too long
    (413), too slow (408), no room (503)."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            f"content-type is '{kind[:80]}'; legal: application/json", status=415, code="bad_content_type"
        )
    if "content-encoding" in request.headers:
        raise RequestError("compressed bodies are not taken", status=415, code="bad_content_encoding")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 12 or int(length) > MAX_BODY):
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_S):
            return await _whole(request, budget)
    except TimeoutError:
        message = f"the body took longer than {BODY_S:g} s"
        raise RequestError(message, status=408, code="request_timeout") from None


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` makes of `size` bytes of a body: of many in a thread, so that streams go on meanwhile."""
    return function(*args, **kwargs) if size <= SMALL else await asyncio.to_thread(function, *args, **kwargs)


async def _whole(request: Request, budget: BodyBudget) -> bytes:
    parts, length = [], 0
    try:
        async for part in request.stream():
            if length + len(part) > MAX_BODY:
                raise _too_large()
            budget.take(length, len(part))
            length += len(part)
            parts.append(part)
    except BaseException:
        budget.give_back(length)
        raise
    return b"".join(parts)


def _too_large() -> RequestError:
    return RequestError(f"the body is longer than {MAX_BODY} bytes", status=413, code="body_too_large")
