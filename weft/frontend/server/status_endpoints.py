"""The endpoints that say what the server is and how it is: models, health, readiness, version, metrics."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import msgspec
from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.frontend.server.app import Service
from weft.frontend.server.errors import error_headers, error_info
from weft.frontend.server.http.access import Access
from weft.frontend.server.metrics.metrics import CONTENT_TYPE
from weft.frontend.server.openai.records import Health, Load, Model, ModelList, Version
from weft.frontend.server.openapi import document


class StatusEndpoints:
    """Over all replicas of one model."""

    def __init__(self, service: Service) -> None:
        self._engines, self._model, self._keys = service.engines, service.model, service.gate.keys
        self._metrics = service.metrics

    async def models(self, request: Request) -> Response:
        """/v1/models: one entry for each name."""
        return json_response(ModelList([self._card(name) for name in self._model.names]))

    async def one_model(self, request: Request) -> Response:
        """/v1/models/NAME."""
        name = request.path_params["name"]
        self._model.check_name(name)
        return json_response(self._card(name))

    def _card(self, name: str) -> Model:
        limits = self._engines.limits
        longest = None if limits is None else limits.max_model_len
        return Model(name, self._model.created, longest, self._model.root or self._model.name)

    async def health(self, request: Request) -> Response:
        """200 while this process serves; the ranks may still be loading."""
        return json_response(Health())

    async def load(self, request: Request) -> Response:
        """/load: how many requests are open."""
        return json_response(Load(self._engines.open_requests))

    async def is_ready(self, request: Request) -> Response:
        """200 while any replica serves, once all have been ready; else 503. Ranks are for clients with a key."""
        body = self._engines.readiness()
        if not self._keys.allows(request, Access.USER):
            body = replace(body, ranks=[], resolved=UNSET)
        try:
            self._engines.check_begun()
        except RequestError as error:
            body = replace(body, error=error_info(error))
            return Response(msgspec.json.encode(body), error.status, error_headers(error), "application/json")
        return json_response(body)

    async def version(self, request: Request) -> Response:
        """/version."""
        return json_response(Version(_installed()))

    async def openapi(self, request: Request) -> Response:
        """/openapi.json."""
        return Response(document(), media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """/metrics, in Prometheus's words."""
        return Response(await self._metrics.exposition(), media_type=CONTENT_TYPE)


def _installed() -> str:
    try:
        return version("weft")
    except PackageNotFoundError:
        return "not installed"


def json_response(value: object) -> Response:
    """A record as a body."""
    return Response(msgspec.json.encode(value), media_type="application/json")
