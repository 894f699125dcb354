"""The HTTP application: routes, bodies, and the way from a request to a stream of the engine. Knows no process."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from weft.engine.choice import Choice
from weft.errors import RequestError
from weft.server.engine_loop import EngineLoop
from weft.server.errors import client_gone, error_headers, error_info, error_response, shown_error
from weft.server.formats import ChatFormat, CompletionFormat, Format
from weft.server.messages import plain_messages
from weft.server.models import ServedModel, check_length, number_of_prompts
from weft.server.records import Model, ModelList
from weft.server.replies import Answer, EventReply, WholeReply
from weft.server.requests import (
    Common,
    chat_request,
    completion_request,
    logprobs_of_chat,
    max_tokens_of_chat,
    max_tokens_of_completion,
    sampling_params,
)
from weft.step.sampling_params import SamplingParams

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request's body."""

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


class Service:
    """The endpoints over one engine loop and one model."""

    def __init__(self, loop: EngineLoop, model: ServedModel) -> None:
        self._loop, self._model = loop, model
        # Two threads: a long prompt that is being tokenized does not hold up a short one.
        self._tokenizing = ThreadPoolExecutor(2, thread_name_prefix="tokenize")

    def routes(self) -> list[Route]:
        """Everything that answers; anything else is a 404."""
        return [
            Route("/v1/chat/completions", _guarded(self.chat), methods=["POST"]),
            Route("/v1/completions", _guarded(self.complete), methods=["POST"]),
            Route("/v1/models", _guarded(self.models), methods=["GET"]),
            Route("/v1/models/{name:path}", _guarded(self.one_model), methods=["GET"]),
            Route("/health", _guarded(self.health), methods=["GET"]),
            Route("/ready", _guarded(self.is_ready), methods=["GET"]),
        ]

    async def chat(self, request: Request) -> Response:
        """/v1/chat/completions."""
        self._loop.check_room(1)
        asked = chat_request(await _body(request), self._model.defaults)
        self._model.check_name(asked.model)
        messages = plain_messages(asked.messages)
        logprobs, max_tokens = logprobs_of_chat(asked), max_tokens_of_chat(asked)
        params = self._params(asked, max_tokens, logprobs, 1)
        limits = self._loop.check_room(params.n)
        ids = await self._in_thread(partial(self._model.chat_ids, messages))
        check_length(ids, max_tokens, limits.max_model_len, "messages")
        return self._reply(asked, [ids], params, ChatFormat(self._model.tokenizer, logprobs))

    async def complete(self, request: Request) -> Response:
        """/v1/completions."""
        self._loop.check_room(1)
        asked = completion_request(await _body(request), self._model.defaults)
        self._model.check_name(asked.model)
        count = number_of_prompts(asked.prompt)
        logprobs, max_tokens = asked.logprobs, max_tokens_of_completion(asked)
        params = self._params(asked, max_tokens, logprobs, count)
        limits = self._loop.check_room(params.n * count)
        prompts = await self._in_thread(partial(self._model.prompt_ids, asked.prompt))
        for ids in prompts:
            check_length(ids, asked.max_tokens, limits.max_model_len, "prompt")
        return self._reply(asked, prompts, params, CompletionFormat(self._model.tokenizer, logprobs))

    def _params(self, asked: Common, max_tokens: int | None, logprobs: int | None, prompts: int) -> SamplingParams:
        vocab = self._model.vocab_size
        return sampling_params(asked, max_tokens=max_tokens, logprobs=logprobs, num_prompts=prompts, vocab=vocab)

    def _reply(self, asked: Common, prompts: list[list[int]], params: SamplingParams, form: Format) -> Response:
        answer_id = form.prefix + secrets.token_hex(16)
        stream = self._loop.submit(answer_id, prompts, params, whole=not asked.stream)
        choices = [Choice(self._model.tokenizer, ids, params) for ids in prompts for _ in range(params.n)]
        answer = Answer(answer_id, int(time.time()), self._model.name, stream, choices, form)
        if not asked.stream:
            return WholeReply(self._loop, answer)
        options = asked.stream_options
        return EventReply(
            self._loop,
            answer,
            include_usage=options is not None and options.include_usage,
            continuous_usage=options is not None and options.continuous_usage_stats,
        )

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, function)

    async def models(self, request: Request) -> Response:
        """/v1/models."""
        return _json(ModelList([self._card()]))

    async def one_model(self, request: Request) -> Response:
        """/v1/models/NAME."""
        self._model.check_name(request.path_params["name"])
        return _json(self._card())

    def _card(self) -> Model:
        engine = self._loop.engine
        length = None if engine is None else engine.limits.max_model_len
        return Model(self._model.name, self._model.created, length)

    async def health(self, request: Request) -> Response:
        """200 while this process serves; the ranks may still be loading."""
        return _json({"status": "ok"})

    async def is_ready(self, request: Request) -> Response:
        """200 while requests are taken, else 503; where each rank is, in both cases."""
        try:
            self._loop.check_ready()
        except RequestError as error:
            body = replace(self._loop.readiness(), error=error_info(error))
            return Response(msgspec.json.encode(body), error.status, error_headers(error), "application/json")
        return _json(self._loop.readiness())

    def close(self) -> None:
        """Lets the tokenizing threads go."""
        self._tokenizing.shutdown(wait=False, cancel_futures=True)


def make_app(service: Service) -> Starlette:
    """The ASGI application."""
    handlers = {HTTPException: _http_error, 404: _http_error, 405: _http_error}
    return Starlette(routes=service.routes(), exception_handlers=handlers)  # type: ignore[arg-type]


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Every fault of a request ends in an error object; nothing of an unexpected one reaches the client."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return error_response(client_gone())
        except Exception as error:  # one request's code path must not end the server
            return error_response(shown_error(error))

    return guarded


async def _body(request: Request) -> bytes:
    """The body, as JSON, within its limit."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            f"content-type is '{kind[:80]}'; legal: application/json", status=415, code="bad_content_type"
        )
    if "content-encoding" in request.headers:
        raise RequestError("compressed bodies are not taken", status=415, code="bad_content_encoding")
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > MAX_BODY:
            raise RequestError(f"the body is longer than {MAX_BODY} bytes", status=413, code="body_too_large")
        parts.append(part)
    return b"".join(parts)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    words = {404: f"there is no {request.url.path[:200]}", 405: f"{request.method} is not allowed here"}
    return error_response(RequestError(words.get(error.status_code, error.detail), status=error.status_code))
