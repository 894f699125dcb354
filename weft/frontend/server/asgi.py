"""The ASGI application: routes, what web pages may call them, and the edge around both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from weft.base.errors import RequestError
from weft.frontend.server.app import Service
from weft.frontend.server.errors import error_response
from weft.frontend.server.fields.notes import HEADER
from weft.frontend.server.http.access import GuardedRoute, check_declared
from weft.frontend.server.http.middleware import RequestMiddleware
from weft.frontend.server.http.path_lookup import PathLookup
from weft.frontend.server.openai.other_paths import hint
from weft.frontend.server.openai.structured import LEFT_OUT
from weft.frontend.server.page.layout_view import LayoutView
from weft.frontend.server.routes import all_routes

_Handler = Callable[[Request, Exception], Awaitable[Response]]


class Below:
    """An ASGI application that also answers below a path, which it takes off."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._path + "/"):
            scope["path"] = scope["path"].removeprefix(self._path)
            scope["raw_path"] = scope["raw_path"].removeprefix(self._path.encode())
        await self._app(scope, receive, send)


def make_app(
    service: Service,
    origins: Sequence[str] = (),
    *,
    root_path: str | None = None,
    access_log: bool = False,
    layout: LayoutView | None = None,
) -> ASGIApp:
    """The ASGI application. `layout`: for the page. ConfigError: a route without declared access."""
    routes = all_routes(service, layout)
    check_declared(routes)
    handlers: dict[int | type[Exception], _Handler] = dict.fromkeys((HTTPException, 404, 405), _http_error(routes))
    inner = Starlette(routes=routes, exception_handlers=handlers)
    inner.router.redirect_slashes = False  # a redirect names the host that the client gave, before it is checked
    app: ASGIApp = PathLookup(inner, routes)
    if origins:
        shown = ["x-request-id", "retry-after", "x-should-retry", LEFT_OUT, HEADER]
        app = CORSMiddleware(
            app,
            origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=shown,
            max_age=600,
        )
    if root_path is not None:
        app = Below(app, root_path)
    return RequestMiddleware(app, service.metrics.answered, access_log=access_log)


def _http_error(routes: Sequence[GuardedRoute]) -> _Handler:
    """Refuses a path or a method that there is not, in the shape of the path's own errors, or of the path above it."""
    refusals = {route.path: route.refusal for route in routes}

    async def refused(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        path = request.scope["path"]
        name = path[:200] if path.isprintable() else "such route"
        shown = {404: f"there is no {name}{hint(path)}", 405: _not_allowed(request, routes)}.get(
            error.status_code, error.detail
        )
        nearest = path[:200]
        while nearest and nearest not in refusals:
            nearest = nearest.rpartition("/")[0]
        return refusals.get(nearest, error_response)(RequestError(shown, status=error.status_code))

    return refused


def _not_allowed(request: Request, routes: Sequence[GuardedRoute]) -> str:
    """What the path is good for, and what the method is good for at the paths that begin like it."""
    method, path = request.method, request.scope["path"]
    here = {each for route in routes if route.path_regex.match(path) for each in route.methods or ()}
    above = path.rpartition("/")[0]
    there = [
        route.path for route in routes if method in (route.methods or ()) and above and route.path.startswith(above)
    ]
    others = f"; {method} is there for {', '.join(there)}" if there else ""
    return f"{method} is not allowed at this path; legal: {', '.join(sorted(here))}{others}"
