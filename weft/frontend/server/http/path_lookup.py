"""PathLookup: routes without parameters are looked up at once; everything else is searched for by Starlette."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from weft.frontend.server.http.access import GuardedRoute


class PathLookup:
    """An ASGI application around the one that knows all of `routes`, which must give the same answers."""

    def __init__(self, app: ASGIApp, routes: Iterable[GuardedRoute]) -> None:
        self._app = app
        self._routes = {
            (method, route.path): route for route in routes if "{" not in route.path for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
