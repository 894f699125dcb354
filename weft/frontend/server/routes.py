"""Every route of the server; anything else is a 404."""

from __future__ import annotations

from weft.frontend.server.app import Service
from weft.frontend.server.http.access import Access, GuardedRoute
from weft.frontend.server.messages.endpoints import MessagesEndpoints
from weft.frontend.server.page.endpoints import PageEndpoints
from weft.frontend.server.page.layout_view import LayoutView
from weft.frontend.server.responses.endpoints import ResponsesEndpoints
from weft.frontend.server.status_endpoints import StatusEndpoints

USER, OPEN, ADMIN = Access.USER, Access.OPEN, Access.ADMIN


def all_routes(service: Service, layout: LayoutView | None = None) -> list[GuardedRoute]:
    """Of all APIs, and of the page."""
    apis = (ResponsesEndpoints(service), MessagesEndpoints(service), PageEndpoints(service, layout))
    return [*_texts(service), *(route for api in apis for route in api.routes()), *_status(service)]


def _texts(service: Service) -> list[GuardedRoute]:
    """OpenAI's older endpoints; clients differ in whether their base URL ends with /v1."""
    route = service.gate.route
    return [
        *(route(f"{base}/chat/completions", service.chat, "POST", USER) for base in ("/v1", "")),
        *(route(f"{base}/completions", service.complete, "POST", USER) for base in ("/v1", "")),
        route("/tokenize", service.tokenize, "POST", USER),
        route("/detokenize", service.detokenize, "POST", USER),
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
