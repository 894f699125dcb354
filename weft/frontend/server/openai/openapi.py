"""OpenAI's older endpoints, and the server's own, for /openapi.json."""

from __future__ import annotations

from weft.frontend.server.errors import ErrorBody
from weft.frontend.server.openai.fields import FIELDS
from weft.frontend.server.openai.messages import MAX_ROLE, ROLES
from weft.frontend.server.openai.records import (
    ChatCompletion,
    Completion,
    Health,
    Load,
    Model,
    ModelList,
    Text,
    Tokens,
    Version,
)
from weft.frontend.server.openai.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
)
from weft.frontend.server.operations import REF, ApiDocument, Schema, get, in_path, post

REQUESTS: tuple[type, ...] = (ChatRequest, CompletionRequest, TokenizeRequest, TokenizeChatRequest, DetokenizeRequest)
HELLO: Schema = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64}


def with_messages(components: Schema) -> None:
    """Puts the messages of a chat into the records that have them: they are checked by hand."""
    components["ChatMessage"] = _message()
    for kind in (ChatRequest, TokenizeChatRequest):
        messages = {"type": "array", "items": {"$ref": REF.format(name="ChatMessage")}, "minItems": 1}
        components[kind.__name__]["properties"]["messages"] = messages


def _message() -> Schema:
    texts = [
        {
            "type": "object",
            "properties": {"type": {"enum": kinds}, name: {"type": "string"}},
            "required": ["type", name],
        }
        for name, kinds in (("text", ["text", "input_text", "output_text"]), ("refusal", ["refusal"]))
    ]
    text = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": texts}}, {"type": "null"}]}
    function = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "null"]}},
        "required": ["name"],
    }
    call = {
        "type": "object",
        "properties": {"id": {"type": ["string", "null"]}, "type": {"const": "function"}, "function": function},
        "required": ["function"],
    }
    optional = {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": {
            "role": {"type": "string", "minLength": 1, "maxLength": MAX_ROLE, "examples": ["developer", *ROLES]},
            "content": text,
            "name": optional,
            "tool_calls": {"anyOf": [{"type": "array", "items": call}, {"type": "null"}]},
            "tool_call_id": optional,
            "reasoning_content": optional,
            "reasoning": optional,
        },
        "required": ["role"],
        "additionalProperties": {"description": "To the chat template."},
    }


def _paths() -> Schema:
    chat = post("A conversation goes on", (ChatRequest,), ChatCompletion, stream=True, example=HELLO)
    begun = {"prompt": "A loom is", "max_tokens": 16}
    text = post("Texts go on", (CompletionRequest,), Completion, stream=True, example=begun)
    tokenize: tuple[type, ...] = (TokenizeRequest, TokenizeChatRequest)
    return {
        "/v1/chat/completions": {"post": chat},
        "/v1/completions": {"post": text},
        "/chat/completions": {"post": chat},
        "/completions": {"post": text},
        "/tokenize": {"post": post("Text or conversation to ids", tokenize, Tokens, example={"prompt": "A loom"})},
        "/detokenize": {"post": post("Ids to text", (DetokenizeRequest,), Text, example={"tokens": [1, 2]})},
        "/v1/models": {"get": get("The models", ModelList)},
        "/v1/models/{name}": {"get": {**get("One model", Model), "parameters": [in_path("name")]}},
        "/health": {"get": get("Alive", Health)},
        "/ping": {"get": get("Alive", Health), "post": get("Alive", Health)},
        "/load": {"get": get("Open requests", Load)},
        "/ready": {"get": get("Takes requests; where every rank is", None)},
        "/version": {"get": get("The server's version", Version)},
        "/openapi.json": {"get": get("This document", None)},
        "/metrics": {"get": get("Numbers for Prometheus", None, media="text/plain")},
    }


OPENAI = ApiDocument(
    requests=dict.fromkeys(REQUESTS, FIELDS.left_aside),
    replies=(ChatCompletion, Completion, Tokens, Text, ModelList, Model, Version, Health, Load, ErrorBody),
    paths=_paths(),
)
