"""The endpoints that say what the server is and how it is: models, health, readiness, version, metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
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
from weft.frontend.server.messages.records import ModelInfo, ModelInfos
from weft.frontend.server.metrics.metrics import CONTENT_TYPE
from weft.frontend.server.openai.records import Health, Load, Model, ModelList, Version
from weft.frontend.server.operations import Api
from weft.frontend.server.replies import json_response

STATUS = Api()
ANTHROPICS = "anthropic-version"
"""Header of the requests of Anthropic's clients."""
public = partial(STATUS.route, "GET", access=Access.OPEN)
user = partial(STATUS.route, "GET", access=Access.USER)
admin = partial(STATUS.route, "GET", access=Access.ADMIN)


class StatusEndpoints:
    """Over all replicas of one model. `document`: makes the OpenAPI document."""

    def __init__(self, service: Service, document: Callable[[], bytes]) -> None:
        self._document = document
        self._engines, self._model, self._keys = service.engines, service.model, service.gate.keys
        self._metrics = service.metrics

    @user("/v1/models", says="The model under each of its names", gives=ModelList)
    async def models(self, request: Request) -> Response:
        """In Anthropic's shape for its clients, which name a version of its API."""
        if ANTHROPICS in request.headers:
            infos = [self._info(name) for name in self._model.names]
            return json_response(ModelInfos(infos, infos[0].id, infos[-1].id))
        return json_response(ModelList([self._card(name) for name in self._model.names]))

    @user("/v1/models/{name:path}", says="The model under one of its names", gives=Model)
    async def one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._model.check_name(name)
        return json_response(self._info(name) if ANTHROPICS in request.headers else self._card(name))

    def _info(self, name: str) -> ModelInfo:
        made = datetime.fromtimestamp(self._model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        limits = self._engines.limits
        return ModelInfo(name, name, made, None if limits is None else limits.max_model_len)

    def _card(self, name: str) -> Model:
        limits = self._engines.limits
        longest = None if limits is None else limits.max_model_len
        return Model(name, self._model.created, longest, self._model.root or self._model.name)

    @public("/health", "/ping", says="200 while the process serves; ranks may still be loading", gives=Health)
    @STATUS.route("POST", "/ping", access=Access.OPEN, says="As some hosting services ask for /health", gives=Health)
    async def health(self, request: Request) -> Response:
        return json_response(Health())

    @public("/load", says="`server_load`: requests that are queued or running", gives=Load)
    async def load(self, request: Request) -> Response:
        return json_response(Load(self._engines.open_requests))

    @public("/ready", says="200 while a replica serves, once all have been ready, else 503; where every rank is")
    async def is_ready(self, request: Request) -> Response:
        """Ranks are for clients with a key."""
        body = self._engines.readiness()
        if not self._keys.allows(request, Access.USER):
            body = replace(body, ranks=[], resolved=UNSET)
        try:
            self._engines.check_begun()
        except RequestError as error:
            body = replace(body, error=error_info(error))
            return Response(msgspec.json.encode(body), error.status, error_headers(error), "application/json")
        return json_response(body)

    @public("/version", says="The server's version", gives=Version)
    async def version(self, request: Request) -> Response:
        return json_response(Version(_installed()))

    @public("/openapi.json", says="All routes and bodies as JSON schema")
    async def openapi(self, request: Request) -> Response:
        return Response(self._document(), media_type="application/json")

    @admin("/metrics", says="Numbers for Prometheus", media="text/plain")
    async def metrics(self, request: Request) -> Response:
        return Response(await self._metrics.exposition(), media_type=CONTENT_TYPE)


def _installed() -> str:
    try:
        return version("weft")
    except PackageNotFoundError:
        return "not installed"
