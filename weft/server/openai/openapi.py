"""/openapi.json: what the routes take and give, made of the records that are checked and sent."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from weft.server.errors import ErrorBody
from weft.server.openai.fields import LEFT_ASIDE
from weft.server.openai.messages import MAX_ROLE, ROLES
from weft.server.openai.records import ChatCompletion, Completion, Health, Load, Model, ModelList, Text, Tokens, Version
from weft.server.openai.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
)

Schema = dict[str, Any]

REQUESTS: tuple[type, ...] = (ChatRequest, CompletionRequest, TokenizeRequest, TokenizeChatRequest, DetokenizeRequest)
RESPONSES: tuple[type, ...] = (
    ChatCompletion,
    Completion,
    Tokens,
    Text,
    ModelList,
    Model,
    Version,
    Health,
    Load,
    ErrorBody,
)
ERRORS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 500, 503, 504)
REF = "#/components/schemas/{name}"


@cache
def document() -> bytes:
    """The document as JSON."""
    _, components = msgspec.json.schema_components((*REQUESTS, *RESPONSES), ref_template=REF)
    for kind in REQUESTS:
        _as_read(components[kind.__name__])
    components["ChatMessage"] = _message()
    for kind in (ChatRequest, TokenizeChatRequest):
        messages = {"type": "array", "items": {"$ref": REF.format(name="ChatMessage")}, "minItems": 1}
        components[kind.__name__]["properties"]["messages"] = messages
    made = {
        "openapi": "3.1.0",
        "info": {"title": "weft", "version": "1"},
        "paths": _paths(),
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
    return msgspec.json.encode(made)


def _as_read(schema: Schema) -> None:
    """A request may leave a field out or null; it may not have others, but labels."""
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        if name not in required and {"type": "null"} not in field.get("anyOf", []):
            default = {"default": field.pop("default")} if "default" in field else {}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **default}
    label = {"description": "Accepted; changes nothing."}
    schema["properties"] |= dict.fromkeys(sorted(LEFT_ASIDE), label)
    schema["additionalProperties"] = False


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
    chat = {"post": _post("A conversation goes on", (ChatRequest,), ChatCompletion, stream=True)}
    text = {"post": _post("Texts go on", (CompletionRequest,), Completion, stream=True)}
    return {
        "/v1/chat/completions": chat,
        "/v1/completions": text,
        "/chat/completions": chat,
        "/completions": text,
        "/tokenize": {"post": _post("Text or conversation to ids", (TokenizeRequest, TokenizeChatRequest), Tokens)},
        "/detokenize": {"post": _post("Ids to text", (DetokenizeRequest,), Text)},
        "/v1/models": {"get": _get("The models", ModelList)},
        "/v1/models/{name}": {"get": {**_get("One model", Model), "parameters": [_name()]}},
        "/health": {"get": _get("Alive", Health)},
        "/ping": {"get": _get("Alive", Health), "post": _get("Alive", Health)},
        "/load": {"get": _get("Open requests", Load)},
        "/ready": {"get": _get("Takes requests; where every rank is", None)},
        "/version": {"get": _get("The server's version", Version)},
        "/openapi.json": {"get": _get("This document", None)},
        "/metrics": {"get": _get("Numbers for Prometheus", None, media="text/plain")},
    }


def _name() -> Schema:
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _post(summary: str, bodies: tuple[type, ...], answer: type, *, stream: bool = False) -> Schema:
    schemas = [_ref(kind) for kind in bodies]
    body = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    operation = _get(summary, answer)
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if stream:
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return operation


def _get(summary: str, answer: type | None, media: str = "application/json") -> Schema:
    schema = {} if answer is None else _ref(answer)
    error = {"description": "Refused", "content": {"application/json": {"schema": _ref(ErrorBody)}}}
    if answer is None:
        error = {"description": "Refused", "content": {"application/json": {"schema": {}}}}
    return {
        "summary": summary,
        "security": [{}, {"key": []}],
        "responses": {
            "200": {"description": "Done", "content": {media: {"schema": schema}}},
            **{str(status): error for status in ERRORS},
        },
    }


def _ref(kind: type) -> Schema:
    return {"$ref": REF.format(name=kind.__name__)}
