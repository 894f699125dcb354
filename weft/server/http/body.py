"""The body of a request: within its limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from weft.errors import RequestError

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request's body."""
BODY_S = 30.0
"""Seconds that a body may take."""


async def read_body(request: Request) -> bytes:
    """The body, as JSON. RequestError: another kind (415), too long (413), too slow (408)."""
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
            return await _whole(request)
    except TimeoutError:
        message = f"the body took longer than {BODY_S:g} s"
        raise RequestError(message, status=408, code="request_timeout") from None


async def _whole(request: Request) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > MAX_BODY:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> RequestError:
    return RequestError(f"the body is longer than {MAX_BODY} bytes", status=413, code="body_too_large")
