"""The outermost layer of the application: an id for every answer, and a line in the log where that is wanted.

What a request holds is never logged. Knows no route.
"""

from __future__ import annotations

import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.log import get_logger

_log = get_logger(__name__)
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Edge:
    """An ASGI application around another. A client's own X-Request-Id is a label: it comes back, and means nothing."""

    def __init__(self, app: ASGIApp, *, access_log: bool = False) -> None:
        self._app, self._access_log = app, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(16).encode()
        began, status = time.monotonic(), 0

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, labelled)
        finally:
            if self._access_log:
                self._note(scope, request_id, status, time.monotonic() - began)

    def _note(self, scope: Scope, request_id: bytes, status: int, seconds: float) -> None:
        client = scope.get("client") or ("-", 0)
        path = scope["path"] if scope["path"].isprintable() else "?"
        _log.info("%s %s %s %d %.3f s %s", client[0], scope["method"], path[:200], status, seconds, request_id.decode())
