"""Answers and events against the models of a client library: every field has its type, and no field is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter


def strict(kind: Any, value: object) -> Any:
    """`value`, JSON data, as the library's record. AssertionError: it has a field that the library does not know."""
    made = TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    assert [*unknown(made)] == [], value
    return made


def unknown(value: object) -> Iterator[str]:
    """Fields that no model names."""
    if isinstance(value, BaseModel):
        yield from (f"{type(value).__name__}.{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            yield from unknown(item)


def frames(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of each server-sent event; nothing else is in `text`."""
    assert text.endswith("\n\n")
    made = []
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        made.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return made
