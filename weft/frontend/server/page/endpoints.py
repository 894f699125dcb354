"""The page at /, /docs, the files of both, and /layout. The files are part of the package; nothing is loaded from
another address, and the browser is asked to hold to that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.frontend.server.app import Service
from weft.frontend.server.http.access import Access, Endpoint, GuardedRoute
from weft.frontend.server.page.layout_view import LayoutView

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""No script, style, picture or request that is not of this server; no other page may show this one."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class PageEndpoints:
    """`layout`: None where no layout is known."""

    def __init__(self, service: Service, layout: LayoutView | None) -> None:
        self._route, self._layout = service.gate.route, layout
        self._making = asyncio.Lock()

    def routes(self) -> list[GuardedRoute]:
        """The page and its files are for everyone: they hold nothing of the server. The layout needs the key."""
        static = files("weft.frontend.server.page").joinpath("static")
        named = {item.name: item.read_bytes() for item in static.iterdir() if item.name.rpartition(".")[2] in KINDS}
        pages = {"/": "index.html", "/docs": "docs.html"}
        files_at = pages | {f"/page/{name}": name for name in named if not name.endswith(".html")}
        return [
            *(self._route(path, _file(name, named[name]), "GET", Access.OPEN) for path, name in files_at.items()),
            self._route("/layout", self.layout, "GET", Access.USER),
            self._route("/layout.svg", self.picture, "GET", Access.USER),
        ]

    async def layout(self, request: Request) -> Response:
        """What each rank holds, and every collective."""
        return Response(await self._made(lambda layout: layout.json), media_type="application/json")

    async def picture(self, request: Request) -> Response:
        """The same as a picture."""
        return Response(await self._made(lambda layout: layout.picture), headers=HEADERS, media_type=KINDS["svg"])

    async def _made(self, part: Callable[[LayoutView], bytes]) -> bytes:
        layout = self._layout
        if layout is None:
            raise RequestError("this server has no layout to show", status=404, code="no_layout")
        async with self._making:
            return await asyncio.to_thread(part, layout)


def _file(name: str, content: bytes) -> Endpoint:
    kind = KINDS[name.rpartition(".")[2]]

    async def answer(request: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return answer
