"""The Responses API for /openapi.json."""

from __future__ import annotations

from weft.frontend.server.operations import ApiDocument, Schema, get, in_path, post
from weft.frontend.server.responses.events import RESPONSE_EVENTS
from weft.frontend.server.responses.records import DeletedResponse, InputTokens, ResponseItems, ResponseReply
from weft.frontend.server.responses.requests import FIELDS, ResponsesRequest

ID: Schema = {"parameters": [in_path("id")]}
HELLO: Schema = {"input": "Why is the sky blue?", "max_output_tokens": 64}

RESPONSES = ApiDocument(
    requests={ResponsesRequest: FIELDS.left_aside},
    replies=(ResponseReply, DeletedResponse, ResponseItems, InputTokens, *RESPONSE_EVENTS),
    paths={
        "/v1/responses": {
            "post": post(
                "A conversation goes on, in OpenAI's newer API",
                (ResponsesRequest,),
                ResponseReply,
                example=HELLO,
                events=RESPONSE_EVENTS,
            )
        },
        "/v1/responses/input_tokens": {
            "post": post("How many tokens a prompt has", (ResponsesRequest,), InputTokens, example=HELLO)
        },
        "/v1/responses/{id}": {
            "get": {**get("A stored response", ResponseReply), **ID},
            "delete": {**get("Drops a stored response", DeletedResponse), **ID},
        },
        "/v1/responses/{id}/input_items": {"get": {**get("What a response was made from", ResponseItems), **ID}},
    },
)
