"""/v1/messages and its count_tokens."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from weft.frontend.server.chats import BegunChat, Chats, ChatWay
from weft.frontend.server.http.access import Access
from weft.frontend.server.messages.chats import NAMES, chat_of
from weft.frontend.server.messages.errors import refusal
from weft.frontend.server.messages.form import MessagesForm
from weft.frontend.server.messages.records import EVENTS, MessageReply, MessagesError, TokenCount
from weft.frontend.server.messages.requests import (
    FIELDS,
    CountTokensRequest,
    MessagesRequest,
    count_tokens_request,
    messages_request,
)
from weft.frontend.server.openai.requests import ChatRequest
from weft.frontend.server.operations import Api
from weft.frontend.server.renamed import naming
from weft.frontend.server.replies import json_response

MESSAGES = Api(error=MessagesError, refusal=refusal, left_aside=FIELDS.left_aside)
HELLO = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
user = partial(MESSAGES.route, "POST", access=Access.USER)


class MessagesEndpoints:
    """Over chats."""

    def __init__(self, chats: Chats) -> None:
        self._chats, self._service = chats, chats.service

    @user(
        "/v1/messages", says="A conversation goes on, in Anthropic's API",
        takes=(MessagesRequest,), gives=MessageReply, events=EVENTS, example=HELLO | {"max_tokens": 64},
    )  # fmt: skip
    async def create(self, request: Request) -> Response:
        self._service.engines.check_room(1)
        asked = await self._service.read(request, messages_request)
        chat = chat_of(asked, self._service.model.defaults)

        def form(begun: BegunChat) -> MessagesForm:
            return MessagesForm(asked, begun, reasoning=chat.include_reasoning)

        way = ChatWay("msg_", form, clips=True, mute=asked.max_tokens == 0)
        with naming(NAMES):
            return await self._chats.answer(request, chat, way)

    @user(
        "/v1/messages/count_tokens", says="How many tokens a conversation has",
        takes=(CountTokensRequest,), gives=TokenCount, example=HELLO,
    )  # fmt: skip
    async def count_tokens(self, request: Request) -> Response:
        asked = await self._service.read(request, count_tokens_request)
        chat: ChatRequest = chat_of(asked, self._service.model.defaults)
        with naming(NAMES):
            ids = await self._chats.ids_of(request, chat)
        return json_response(TokenCount(len(ids)))
