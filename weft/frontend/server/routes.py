"""Every route of the server; anything else is a 404."""

from __future__ import annotations

from functools import cache

from weft.frontend.server.app import Service
from weft.frontend.server.chats import Chats
from weft.frontend.server.http.access import GuardedRoute
from weft.frontend.server.messages.endpoints import MessagesEndpoints
from weft.frontend.server.openai.endpoints import OpenAIEndpoints
from weft.frontend.server.openapi import document
from weft.frontend.server.operations import Operation, declared, routes_of
from weft.frontend.server.page.endpoints import PageEndpoints
from weft.frontend.server.page.layout_view import LayoutView
from weft.frontend.server.responses.endpoints import ResponsesEndpoints
from weft.frontend.server.status_endpoints import StatusEndpoints


def all_operations() -> list[Operation]:
    """What the routes declare."""
    return declared((OpenAIEndpoints, ResponsesEndpoints, MessagesEndpoints, StatusEndpoints, PageEndpoints))


@cache
def whole_document() -> bytes:
    """/openapi.json."""
    return document(all_operations())


def all_routes(service: Service, layout: LayoutView | None = None) -> list[GuardedRoute]:
    """Of all APIs, and of the page."""
    chats = Chats(service)
    apis = (OpenAIEndpoints(chats), ResponsesEndpoints(chats), MessagesEndpoints(chats))
    return [*routes_of(service.gate, (*apis, StatusEndpoints(service, whole_document), PageEndpoints(layout)))]
