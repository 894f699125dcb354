"""Operations of the OpenAPI document: what a route takes and gives, as parts of JSON schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.frontend.server.errors import ErrorBody

Schema = dict[str, Any]

ERRORS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 500, 503, 504)
REF = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDocument:
    """One API's part. `requests`: each with the fields that are accepted and change nothing. `replies`: all other
    records that `paths` refers to."""

    requests: Mapping[type, Iterable[str]]
    replies: tuple[type, ...]
    paths: Schema


def post(
    summary: str,
    bodies: tuple[type, ...],
    answer: type,
    *,
    example: object = None,
    stream: bool = False,
    events: tuple[type, ...] = (),
    error: type = ErrorBody,
) -> Schema:
    """An operation with a body. `events`: what a stream has, where these are records."""
    operation = get(summary, answer, error=error)
    content: Schema = {"schema": _either(bodies)}
    if example is not None:
        content["example"] = example
    operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if stream or events:
        schema = _either(events) if events else {"type": "string"}
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": schema}
    return operation


def get(
    summary: str, answer: type | None, media: str = "application/json", *, error: type | None = ErrorBody
) -> Schema:
    """An operation without a body."""
    refused = {"schema": {} if answer is None or error is None else ref(error)}
    shown = {"description": "Refused", "content": {"application/json": refused}}
    return {
        "summary": summary,
        "security": [{}, {"key": []}],
        "responses": {
            "200": {"description": "Done", "content": {media: {"schema": {} if answer is None else ref(answer)}}},
            **{str(status): shown for status in ERRORS},
        },
    }


def ref(kind: type) -> Schema:
    """A record, which the document has once."""
    return {"$ref": REF.format(name=kind.__name__)}


def in_path(name: str) -> Schema:
    """A part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _either(kinds: tuple[type, ...]) -> Schema:
    return ref(kinds[0]) if len(kinds) == 1 else {"anyOf": [ref(kind) for kind in kinds]}
