"""The outermost layer of the application: an id for every answer, and a line in the log where that is wanted.

What a request holds is never logged.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.base.log import get_logger
from weft.frontend.server.errors import CLIENT_GONE
from weft.frontend.server.fields.notes import notes_of

_log = get_logger(__name__)
Answered = Callable[[str, str, int, float], None]
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def request_ids() -> Callable[[], bytes]:
    """A source of ids that cannot be guessed from others."""
    draw = random.Random(secrets.randbits(128))
    return lambda: b"%032x" % draw.getrandbits(128)


class RequestMiddleware:
    """An ASGI application around another. A client's own X-Request-Id is a label: it comes back, and means nothing."""

    def __init__(self, app: ASGIApp, answered: Answered, *, access_log: bool = False) -> None:
        """`answered` is called for every answer: the route's pattern ("none": no route's), method, status and
        seconds."""
        self._app, self._answered, self._access_log = app, answered, access_log
        self._new_id = request_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _ID.fullmatch(given) else self._new_id()
        began, status = time.monotonic(), 0

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = ((b"x-request-id", request_id), *notes_of(scope).headers())
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            await self._app(scope, receive, labelled)
        finally:
            seconds, status = time.monotonic() - began, status or CLIENT_GONE
            self._answered(_handler(scope), scope["method"], status, seconds)
            if self._access_log:
                self._note(scope, request_id, status, seconds)

    def _note(self, scope: Scope, request_id: bytes, status: int, seconds: float) -> None:
        client = scope.get("client") or ("-", 0)
        path = scope["path"] if scope["path"].isprintable() else "?"
        _log.info("%s %s %s %d %.3f s %s", client[0], scope["method"], path[:200], status, seconds, request_id.decode())


def _handler(scope: Scope) -> str:
    """The pattern of the route that answered. A label of a metric must not be a path: there is no limit on those."""
    return str(getattr(scope.get("route"), "path", "none"))
