"""The layout and the pages for /openapi.json."""

from __future__ import annotations

from weft.frontend.server.operations import ApiDocument, get

PAGE = ApiDocument(
    requests={},
    replies=(),
    paths={
        "/layout": {"get": get("What each rank holds, and every collective, as weft explain --json", None)},
        "/layout.svg": {"get": get("The layout as a picture", None, media="image/svg+xml")},
        "/": {"get": get("A page with a chat and the layout at work", None, media="text/html")},
        "/docs": {"get": get("A page with these operations", None, media="text/html")},
    },
)
