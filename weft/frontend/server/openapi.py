"""/openapi.json: what the routes take and give, made of the records that are checked and sent."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import msgspec

from weft.frontend.server.messages.openapi import MESSAGES
from weft.frontend.server.openai.openapi import OPENAI, with_messages
from weft.frontend.server.operations import REF, Schema
from weft.frontend.server.page.openapi import PAGE
from weft.frontend.server.responses.openapi import RESPONSES

APIS = (OPENAI, RESPONSES, MESSAGES, PAGE)


@cache
def document() -> bytes:
    """The document as JSON."""
    kinds = [kind for api in APIS for kind in (*api.requests, *api.replies)]
    _, components = msgspec.json.schema_components(kinds, ref_template=REF)
    for api in APIS:
        for kind, labels in api.requests.items():
            _as_read(components[kind.__name__], labels)
    with_messages(components)
    keys = {
        "key": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    made = {
        "openapi": "3.1.0",
        "info": {"title": "weft", "version": "1"},
        "paths": {path: operations for api in APIS for path, operations in api.paths.items()},
        "components": {"schemas": components, "securitySchemes": keys},
    }
    return msgspec.json.encode(made)


def _as_read(schema: Schema, labels: Iterable[str]) -> None:
    """A request may leave a field out or null; it may not have others, but labels."""
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        if name not in required and {"type": "null"} not in field.get("anyOf", []):
            default = {"default": field.pop("default")} if "default" in field else {}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **default}
    label = {"description": "Accepted; changes nothing."}
    schema["properties"] |= dict.fromkeys(sorted(labels), label)
    schema["additionalProperties"] = False
