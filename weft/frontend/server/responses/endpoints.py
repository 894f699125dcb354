"""/v1/responses: answers, and those that are stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from weft.frontend.server.chats import BegunChat, Chats, ChatWay
from weft.frontend.server.errors import refuse
from weft.frontend.server.fields.notes import notes_of
from weft.frontend.server.http.access import Access
from weft.frontend.server.openai.requests import ChatRequest
from weft.frontend.server.openai.tool_fields import CALLED
from weft.frontend.server.operations import Api
from weft.frontend.server.renamed import naming
from weft.frontend.server.replies import Answer, json_response
from weft.frontend.server.responses.chats import NAMES, chat_of, shown_tool
from weft.frontend.server.responses.events import RESPONSE_EVENTS
from weft.frontend.server.responses.form import ResponsesForm
from weft.frontend.server.responses.items import checked_items
from weft.frontend.server.responses.logprobs import TokenWords
from weft.frontend.server.responses.records import (
    DeletedResponse,
    InputTokens,
    OutputItem,
    ResponseItems,
    ResponseReply,
)
from weft.frontend.server.responses.requests import FIELDS, Item, ResponsesRequest, responses_request
from weft.frontend.server.responses.store import ResponseStore

MOST_LISTED = 100
"""Items of a page of a response's input."""


RESPONSES = Api(left_aside=FIELDS.left_aside)
HELLO = {"input": "Why is the sky blue?", "max_output_tokens": 64}
user = partial(RESPONSES.route, access=Access.USER)


class ResponsesEndpoints:
    """Over chats. Each key's holder has a store of its own."""

    def __init__(self, chats: Chats) -> None:
        self._chats, self._service = chats, chats.service
        self._stores: defaultdict[str, ResponseStore] = defaultdict(ResponseStore)

    @user(
        "POST", "/v1/responses", says="A conversation goes on, in OpenAI's newer API",
        takes=(ResponsesRequest,), gives=ResponseReply, events=RESPONSE_EVENTS, example=HELLO,
    )  # fmt: skip
    async def create(self, request: Request) -> Response:
        self._service.engines.check_room(1)
        asked = await self._service.read(request, responses_request)
        store = self._store(request)
        items = [*_earlier(store, asked.previous_response_id), *checked_items(asked.input, notes_of(request.scope))]
        if asked.store:
            store.check(items)
        chat = chat_of(asked, items, self._service.model.defaults)
        words = TokenWords(self._service.model.tokenizer, (chat.top_logprobs or 0) if chat.logprobs else None)

        def keep(id: str, body: bytes, output: list[OutputItem]) -> None:
            if asked.store:
                store.put(id, body, items, msgspec.to_builtins(output))

        def form(begun: BegunChat) -> ResponsesForm:
            return ResponsesForm(_empty(asked, chat), begun, words, keep, reasoning=asked.include_reasoning)

        with naming(NAMES):
            return await self._chats.answer(request, chat, ChatWay("resp_", form))

    @user(
        "POST", "/v1/responses/input_tokens", says="How many tokens the prompt of a response would have",
        takes=(ResponsesRequest,), gives=InputTokens, example=HELLO,
    )  # fmt: skip
    async def input_tokens(self, request: Request) -> Response:
        asked = await self._service.read(request, responses_request)
        items = [
            *_earlier(self._store(request), asked.previous_response_id),
            *checked_items(asked.input, notes_of(request.scope)),
        ]
        with naming(NAMES):
            ids = await self._chats.ids_of(request, chat_of(asked, items, self._service.model.defaults))
        return json_response(InputTokens(len(ids)))

    @user("GET", "/v1/responses/{id}", says="A stored response", gives=ResponseReply)
    async def retrieve(self, request: Request) -> Response:
        if request.query_params.get("stream", "false").lower() not in ("false", "0"):
            refuse("stream", "a stored response comes whole; leave it out")
        found = self._store(request).get(request.path_params["id"])
        return Response(found.body, media_type="application/json")

    @user("DELETE", "/v1/responses/{id}", says="Drops a stored response", gives=DeletedResponse)
    async def delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        self._store(request).delete(id)
        return json_response(DeletedResponse(id))

    @user(
        "GET", "/v1/responses/{id}/input_items", says="What a stored response was made from", gives=ResponseItems,
    )  # fmt: skip
    async def input_items(self, request: Request) -> Response:
        """A page, the latest first."""
        found = list(self._store(request).get(request.path_params["id"]).input)
        query = request.query_params
        order, text = query.get("order", "desc"), query.get("limit", "20")
        if order not in ("asc", "desc"):
            refuse("order", f"it is {order[:40]!r}; legal: 'asc', 'desc'")
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
        if not 1 <= limit <= MOST_LISTED:
            refuse("limit", f"it is {text[:40]!r}; legal: from 1 to {MOST_LISTED}")
        if order == "desc":
            found.reverse()
        if (after := query.get("after")) is not None:
            at = next((at for at, item in enumerate(found) if item["id"] == after), None)
            if at is None:
                refuse("after", f"no item has the id {after[:80]!r}")
            found = found[at + 1 :]
        page = found[:limit]
        first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
        return json_response(ResponseItems(page, first, last, len(found) > limit))

    def _store(self, request: Request) -> ResponseStore:
        return self._stores[self._service.gate.keys.holder(request)]


def _earlier(store: ResponseStore, id: str | None) -> list[Item]:
    """The items of the conversation up to a stored response, and its own."""
    if id is None:
        return []
    found = store.get(id, "previous_response_id")
    return [*found.input, *found.output]


def _empty(asked: ResponsesRequest, chat: ChatRequest) -> Callable[[Answer], ResponseReply]:
    """The response to a request before there is anything of it."""
    text: dict[str, Any] = {"format": {"type": "text"}, "verbosity": "medium"}
    if asked.text.format is not None:
        text["format"] = msgspec.to_builtins(asked.text.format)
    reasoning = {"effort": asked.reasoning.effort, "summary": None}
    tools = [shown_tool(tool) for tool in asked.tools if tool.get("type") in ("namespace", *CALLED)]

    def empty(answer: Answer) -> ResponseReply:
        return ResponseReply(
            id=answer.id, created_at=answer.created, model=answer.model, status="in_progress", output=[],
            instructions=asked.instructions, max_output_tokens=asked.max_output_tokens, metadata=asked.metadata,
            parallel_tool_calls=asked.parallel_tool_calls, previous_response_id=asked.previous_response_id,
            reasoning=reasoning, temperature=chat.temperature, text=text,
            tool_choice=asked.tool_choice, tools=tools, top_logprobs=asked.top_logprobs or 0, top_p=chat.top_p,
        )  # fmt: skip

    return empty
