"""The OpenAPI document of operations, made of the records that are checked and sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from weft.frontend.server.http.access import Access
from weft.frontend.server.openai.message_schema import REF, with_messages
from weft.frontend.server.operations import JSON, Operation

Schema = dict[str, Any]

ERRORS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 500, 503, 504)
KEYS: Schema = {
    "key": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def document(operations: Sequence[Operation]) -> bytes:
    """The document as JSON."""
    records = [(*each.takes, each.gives, *each.events, each.api.error) for each in operations]
    kinds = dict.fromkeys(kind for row in records for kind in row if kind not in (None, str))
    _, components = msgspec.json.schema_components(kinds, ref_template=REF)
    for kind, left_aside in {kind: each.api.left_aside for each in operations for kind in each.takes}.items():
        _as_read(components[kind.__name__], left_aside)
    with_messages(components)
    paths: dict[str, Schema] = {}
    for each in operations:
        paths.setdefault(each.shown_path, {})[each.method.lower()] = _operation(each)
    made = {
        "openapi": "3.1.0",
        "info": {"title": "weft", "version": "1"},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": KEYS},
    }
    return msgspec.json.encode(made)


def _operation(asked: Operation) -> Schema:
    refused = {"schema": {} if asked.gives is None else _ref(asked.api.error)}
    shown = {"description": "Refused", "content": {JSON: refused}}
    content: Schema = {asked.media: {"schema": {} if asked.gives is None else _ref(asked.gives)}}
    if asked.events:
        content["text/event-stream"] = {"schema": _either(asked.events)}
    made: Schema = {
        "summary": asked.says,
        "security": [] if asked.access is Access.OPEN else [{}, {"key": []}],
        "responses": {
            "200": {"description": "Done", "content": content},
            **{str(status): shown for status in ERRORS},
        },
    }
    if asked.takes:
        body: Schema = {"schema": _either(asked.takes)}
        if asked.example is not None:
            body["example"] = asked.example
        made["requestBody"] = {"required": True, "content": {JSON: body}}
    if names := re.findall(r"{(\w+)}", asked.shown_path):
        schema = {"type": "string"}
        made["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]
    return made


def _ref(kind: type) -> Schema:
    """A record, which the document has once."""
    return {"type": "string"} if kind is str else {"$ref": REF.format(name=kind.__name__)}


def _either(kinds: Sequence[type]) -> Schema:
    return _ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [_ref(kind) for kind in kinds]}


def _as_read(schema: Schema, left_aside: Iterable[str]) -> None:
    """A request may leave a field out or null; it may not have others, but those that change nothing."""
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        if name not in required and {"type": "null"} not in field.get("anyOf", []):
            default = {"default": field.pop("default")} if "default" in field else {}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **default}
    label = {"description": "Accepted; changes nothing."}
    schema["properties"] = dict.fromkeys(sorted(left_aside), label) | schema["properties"]
    schema["additionalProperties"] = False
