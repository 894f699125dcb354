"""Closed objects: which have no properties but their own; closing never makes a schema one that nothing meets."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.compute.grammars.test_json_schema import CHECK, accepts
from weft.base.errors import RequestError
from weft.compute.grammars.constraints import Constraint, Grammar, grammar_of

A: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
B: dict[str, Any] = {"type": "object", "properties": {"b": {"type": "integer"}}}
DEFS = {"$defs": {"A": A, "B": B}}
REF, NULL = {"$ref": "#/$defs/A"}, {"type": "null"}


def closed(schema: Any, *, closed: bool = True) -> Grammar:
    return grammar_of(Constraint(kind="json", value=schema, strict=False, param="schema", closed=closed), CHECK)


CLOSES: tuple[tuple[Any, str], ...] = (
    (A, "{}"),
    ({"properties": {}}, "{}"),
    ({"type": "array", "items": A}, "[{}]"),
    ({"properties": {"n": A}}, '{{"n": {}}}'),
    (REF | DEFS, "{}"),
    ({"properties": {"n": {"anyOf": [REF, NULL]}}} | DEFS, '{{"n": {}}}'),
    ({"allOf": [REF], "description": "x"} | DEFS, "{}"),
    ({"properties": {"n": {"type": "array", "items": REF}}} | DEFS, '{{"n": [{}]}}'),
    (A | {"minProperties": 1, "dependentRequired": {"a": ["a"]}}, "{}"),
)
OPENS: tuple[tuple[Any, str], ...] = (
    ({"type": "object"}, "{}"),
    (A | {"additionalProperties": True}, "{}"),
    (A | {"additionalProperties": {"type": "integer"}}, "{}"),
    (A | {"patternProperties": {"^x": True}}, "{}"),
    (A | {"unevaluatedProperties": True}, "{}"),
    (A | {"required": ["x"]}, "{}"),
    (A | {"minProperties": 2}, "{}"),
    (A | {"dependentRequired": {"a": ["x"]}}, "{}"),
    ({"allOf": [A, B]}, "{}"),
    ({"anyOf": [A, B]}, "{}"),
    ({"anyOf": [REF, {"$ref": "#/$defs/B"}]} | DEFS, "{}"),
    (A | {"allOf": [B]}, "{}"),
    (A | {"anyOf": [{"required": ["x"]}, {"required": ["y"]}]}, "{}"),
    (A | {"if": {"required": ["a"]}, "then": {"required": ["x"]}}, "{}"),
    (A | {"not": {"required": ["y"]}}, "{}"),
    (REF | B | DEFS, "{}"),
    ({"properties": {"n": A}, "allOf": [{"properties": {"n": {"required": ["x"]}}}]}, '{{"n": {}}}'),
    ({"prefixItems": [REF, {"allOf": [REF, B]}]} | DEFS, "[{}]"),
)


@pytest.mark.parametrize(
    ("schema", "around", "closes"), [(*one, True) for one in CLOSES] + [(*one, False) for one in OPENS]
)
def test_an_object_closes_where_nothing_asks_for_more(schema: Any, around: str, closes: bool) -> None:
    inner = '{"a": 1}' if "a" in json.dumps(schema) else "{}"
    more = '{"a": 1, "x": 2}' if "a" in json.dumps(schema) else '{"x": 2}'
    texts = [around.replace("{}", each).replace("{{", "{").replace("}}", "}") for each in (inner, more)]
    grammar = closed(schema)
    assert accepts(grammar, texts[1]) != closes
    assert not closes or accepts(grammar, texts[0])
    assert accepts(closed(schema, closed=False), texts[1])


class Schemas:
    """Random schemas of objects inside objects, their branches and references."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def leaf(self) -> Any:
        return self.random.choice([{"type": "string"}, {"const": 1}, True, NULL, {"enum": ["x", {"a": 1}]}])

    def one(self, depth: int = 0) -> Any:
        draw = self.random.random
        kind = draw()
        if depth > 3 or kind < 0.2:
            return self.leaf()
        if kind < 0.3:
            word = self.random.choice(["anyOf", "oneOf", "allOf"])
            return {word: [self.one(depth + 1) for _ in range(self.random.randint(1, 2))]}
        if kind < 0.4:
            return {"$ref": self.random.choice(["#/$defs/A", "#/$defs/B"])}
        names = self.random.sample("abc", self.random.randint(0, 3))
        made: dict[str, Any] = {"type": "object", "properties": {name: self.one(depth + 1) for name in names}}
        further: dict[str, Any] = {
            "required": self.random.sample("abc", self.random.randint(0, 2)),
            "additionalProperties": self.one(depth + 1), "patternProperties": {"^a": self.one(depth + 1)},
            "allOf": [self.one(depth + 1)], "anyOf": [self.one(depth + 1), self.one(depth + 1)],
            "minProperties": self.random.randint(0, 3), "if": self.one(depth + 1), "then": self.one(depth + 1),
            "unevaluatedProperties": False, "$ref": "#/$defs/A",
        }  # fmt: skip
        return made | {word: value for word, value in further.items() if draw() < (0.5 if word == "required" else 0.1)}

    def whole(self) -> dict[str, Any]:
        root = self.one()
        return (root if isinstance(root, dict) else {}) | {"$defs": {"A": self.one(1), "B": self.one(2)}}

    def document(self, depth: int = 0) -> Any:
        if depth > 2 or self.random.random() < 0.3:
            return self.random.choice([1, "x", None, {"a": 1}])
        names = sorted(self.random.sample("abc", self.random.randint(0, 3)))
        return {name: self.document(depth + 1) for name in names}


@pytest.mark.parametrize("seed", range(4))
def test_no_schema_becomes_one_that_nothing_meets(seed: int) -> None:
    made = Schemas(seed)
    for _ in range(60):
        schema = made.whole()
        found: list[Grammar | None] = []
        for each in (False, True):
            try:
                found.append(closed(schema, closed=each))
            except RequestError:
                found.append(None)
        opened, shut = found
        assert (opened is None) == (shut is None), schema
        for _ in range(12 if opened is not None and shut is not None else 0):
            text = json.dumps(made.document())
            assert opened and shut and (accepts(opened, text) or not accepts(shut, text))
