"""Requests that are nearly right: bodies of a server's own document with some fields, or some bytes, that are not."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
BASES: dict[str, dict[str, Any]] = {
    "messages": {"messages": MESSAGES},
    "prompt": {"prompt": "Hello"},
    "tokens": {"tokens": [1, 2]},
    "input": {"input": "Hello"},
}
"""What makes a body of each kind whole, by the field that it needs."""
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.0, 1e-300, 1e300, 1.5, "", "\t",
    "x", "\u0000", "\ud800", "\U0001f600" * 5, "a" * 5000, "{{ 1/0 }}", "(a+)+$", "[", "*", "token_id:1", [], {},
    [[]], [None], [1], [-1], [10**9], ["x", "x"], [""] * 70, [[1], [2]], {"": ""}, {"a": {"a": {"a": {}}}}, {"1":
    100}, {"1": 1e9}, MESSAGES, [{"role": "user"}], [{"role": "tool", "content": "x"}], [{"role": "assistant",
    "tool_calls": [CALL]}], [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}],
    [TOOL], [TOOL, TOOL], {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x", "schema":
    {"type": "array"}}}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}, "auto",
    "none", "required", {"type": "function", "function": {"name": "f"}}, {"include_usage": True}, {"include_usage":
    1}, {"regex": "a{1,9}"}, {"choice": ["a", "b"]}, {"grammar": "root ::= x"}, {"json": {"type": "integer"}},
)  # fmt: skip


class SemiValid:
    """Of `document`, a server's OpenAPI document; the same requests for the same `seed`."""

    def __init__(self, document: Mapping[str, Any], seed: int) -> None:
        self._draw, self._schemas = random.Random(seed), document["components"]["schemas"]
        posts = {
            path: ways["post"] for path, ways in document["paths"].items() if "requestBody" in ways.get("post", {})
        }
        self._kinds = {
            path: self._records(post["requestBody"]["content"]["application/json"]["schema"])
            for path, post in posts.items()
        }

    def _records(self, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
        schemas = schema.get("anyOf", [schema])
        return [self._schemas[one["$ref"].rpartition("/")[2]]["properties"] for one in schemas]

    @property
    def paths(self) -> list[str]:
        """All that take a body."""
        return [*self._kinds]

    def request(self, path: str | None = None) -> tuple[str, bytes]:
        """A path, any where none is given, and a body."""
        draw = self._draw
        path = path or draw.choice(self.paths)
        fields = draw.choice(self._kinds[path])
        body: dict[str, Any] = next((dict(base) for name, base in BASES.items() if name in fields), {})
        if "max_tokens" in fields and draw.random() < 0.95:
            body["max_tokens"] = draw.randint(1, 5)
        for name in draw.sample([*fields], min(len(fields), draw.randint(0, 3))):
            body[name] = self._value(fields[name], 3) if draw.random() < 0.6 else draw.choice(ODD)
        if draw.random() < 0.05:
            body[draw.choice(["x", "", "best", "toString", *ODD[23:26]])] = draw.choice(ODD)
        if draw.random() < 0.2:
            body |= dict.fromkeys(draw.sample([*fields], draw.randint(0, len(fields) - 1)), None) | body
        text = json.dumps(body).encode()
        return path, self._broken(text) if draw.random() < 0.1 else text

    def _broken(self, text: bytes) -> bytes:
        draw = self._draw
        at = draw.randrange(len(text))
        return draw.choice(
            [
                text[:at],
                text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :],
                text[:at] + text[at // 2 :],
                text * 2,
                b"",
            ]
        )

    def _value(self, schema: Mapping[str, Any], depth: int) -> Any:
        """One that the schema allows, or nearly."""
        draw = self._draw
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            return self._value(draw.choice(schema["anyOf"]), depth)
        if "enum" in schema:
            return draw.choice(schema["enum"])
        kind = schema.get("type")
        if kind in ("integer", "number"):
            bounds = [schema[name] for name in ("minimum", "maximum", "exclusiveMinimum") if name in schema]
            near = draw.choice([0, 1, 2, 5, *bounds]) + draw.choice([0, 0, 0, 1, -1])
            return near if kind == "integer" else near * draw.choice([1.0, 0.5])
        if kind == "boolean":
            return draw.random() < 0.5
        if kind == "array" and depth:
            return [self._value(schema.get("items", {}), depth - 1) for _ in range(draw.randint(0, 3))]
        if kind == "object" and depth:
            fields: Mapping[str, Any] = schema.get("properties", {})
            chosen = draw.sample([*fields], min(len(fields), draw.randint(0, 3)))
            return {name: self._value(fields[name], depth - 1) for name in chosen}
        return "Hi" if kind == "string" else draw.choice(ODD)
