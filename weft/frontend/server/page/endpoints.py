"""The page at /, /docs, the files of both, and /layout. The files are part of the package; nothing is loaded from
another address, and the browser is asked to hold to that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.frontend.server.http.access import Access
from weft.frontend.server.operations import Api
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


public = partial(Api().route, "GET", access=Access.OPEN)
user = partial(Api().route, "GET", access=Access.USER)


class PageEndpoints:
    """The pages and their files are for everyone: they hold nothing of the server. `layout`: None where none is
    known."""

    def __init__(self, layout: LayoutView | None) -> None:
        self._layout, self._making = layout, asyncio.Lock()
        static = files("weft.frontend.server.page").joinpath("static")
        self._files = {
            item.name: item.read_bytes() for item in static.iterdir() if item.name.rpartition(".")[2] in KINDS
        }

    @public("/", says="A page with a chat and the layout at work", media=KINDS["html"])
    async def page(self, request: Request) -> Response:
        return self._file("index.html")

    @public("/docs", says="A page with all operations", media=KINDS["html"])
    async def docs(self, request: Request) -> Response:
        return self._file("docs.html")

    @public("/page/{name}", says="A file of the pages", media="*/*")
    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files or name.endswith(".html"):
            raise RequestError(f"there is no {request.scope['path'][:200]}", status=404)
        return self._file(name)

    def _file(self, name: str) -> Response:
        return Response(self._files[name], headers=HEADERS, media_type=KINDS[name.rpartition(".")[2]])

    @user("/layout", says="What each rank holds, and every collective, as `weft explain --json`")
    async def layout(self, request: Request) -> Response:
        return Response(await self._made(lambda layout: layout.json), media_type="application/json")

    @user("/layout.svg", says="The layout as a picture", media=KINDS["svg"])
    async def picture(self, request: Request) -> Response:
        return Response(await self._made(lambda layout: layout.picture), headers=HEADERS, media_type=KINDS["svg"])

    async def _made(self, part: Callable[[LayoutView], bytes]) -> bytes:
        layout = self._layout
        if layout is None:
            raise RequestError("this server has no layout to show", status=404, code="no_layout")
        async with self._making:
            return await asyncio.to_thread(part, layout)
