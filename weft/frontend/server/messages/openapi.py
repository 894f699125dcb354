"""The Messages API for /openapi.json."""

from __future__ import annotations

from weft.frontend.server.messages.records import (
    BlockDelta,
    BlockStart,
    BlockStop,
    MessageEnd,
    MessageReply,
    MessagesError,
    MessageStart,
    MessageStop,
    Ping,
    TokenCount,
)
from weft.frontend.server.messages.requests import FIELDS, CountTokensRequest, MessagesRequest
from weft.frontend.server.operations import ApiDocument, Schema, post

EVENTS = (MessageStart, BlockStart, BlockDelta, BlockStop, MessageEnd, MessageStop, Ping, MessagesError)
HELLO: Schema = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}

MESSAGES = ApiDocument(
    requests=dict.fromkeys((MessagesRequest, CountTokensRequest), FIELDS.left_aside),
    replies=(MessageReply, TokenCount, *EVENTS),
    paths={
        "/v1/messages": {
            "post": post(
                "A conversation goes on, in Anthropic's API",
                (MessagesRequest,),
                MessageReply,
                example=HELLO | {"max_tokens": 64},
                events=EVENTS,
                error=MessagesError,
            )
        },
        "/v1/messages/count_tokens": {
            "post": post(
                "How many tokens a conversation has",
                (CountTokensRequest,),
                TokenCount,
                example=HELLO,
                error=MessagesError,
            )
        },
    },
)
