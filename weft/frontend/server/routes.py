"""Every route of the server; anything else is a 404."""

from __future__ import annotations

from weft.frontend.server.app import Service
from weft.frontend.server.chats import Chats
from weft.frontend.server.http.access import Access, GuardedRoute
from weft.frontend.server.messages.endpoints import MessagesEndpoints
from weft.frontend.server.openai.endpoints import OpenAIEndpoints
from weft.frontend.server.page.endpoints import PageEndpoints
from weft.frontend.server.page.layout_view import LayoutView
from weft.frontend.server.responses.endpoints import ResponsesEndpoints
from weft.frontend.server.status_endpoints import StatusEndpoints

USER, OPEN, ADMIN = Access.USER, Access.OPEN, Access.ADMIN


def all_routes(service: Service, layout: LayoutView | None = None) -> list[GuardedRoute]:
    """Of all APIs, and of the page."""
    chats = Chats(service)
    apis = (ResponsesEndpoints(chats), MessagesEndpoints(chats), PageEndpoints(service, layout))
    return [*_texts(chats), *(route for api in apis for route in api.routes()), *_status(service)]


def _texts(chats: Chats) -> list[GuardedRoute]:
    """OpenAI's older endpoints; clients differ in whether their base URL ends with /v1."""
    route, texts = chats.service.gate.route, OpenAIEndpoints(chats)
    return [
        *(route(f"{base}/chat/completions", texts.chat, "POST", USER) for base in ("/v1", "")),
        *(route(f"{base}/completions", texts.complete, "POST", USER) for base in ("/v1", "")),
        route("/tokenize", texts.tokenize, "POST", USER),
        route("/detokenize", texts.detokenize, "POST", USER),
    ]


def _status(service: Service) -> list[GuardedRoute]:
    route, status = service.gate.route, StatusEndpoints(service)
    return [
        route("/v1/models", status.models, "GET", USER),
        route("/v1/models/{name:path}", status.one_model, "GET", USER),
        route("/health", status.health, "GET", OPEN),
        route("/ping", status.health, "GET", OPEN),
        route("/ping", status.health, "POST", OPEN),
        route("/load", status.load, "GET", OPEN),
        route("/ready", status.is_ready, "GET", OPEN),
        route("/version", status.version, "GET", OPEN),
        route("/openapi.json", status.openapi, "GET", OPEN),
        route("/metrics", status.metrics, "GET", ADMIN),
    ]
