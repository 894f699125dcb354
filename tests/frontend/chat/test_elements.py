"""Qwen3-Coder's elements: what their grammar takes keeps to the schema once it is read; what it leaves out is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.frontend.chat.test_answer_grammar import takes, words
from weft.compute.grammars.json_schema import held_schema
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.answer_parser import AnswerParser
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.elements import ElementValues, left_out_of
from weft.frontend.chat.tool_forms import TOOL_FORMS
from weft.frontend.chat.tools import Tool, ToolUse

FORM = TOOL_FORMS["qwen3_coder"]
DEFS = {
    "color": {"type": "string", "enum": ["red", "a"]},
    "few": {"type": "integer", "maximum": 12},
    "loop": {"anyOf": [{"$ref": "#/$defs/loop"}] * 50},
}
TEXTS: list[Any] = [
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^a|c$"},
    {"type": "string", "pattern": "b"},
    {"type": "string", "pattern": "^[ab^|]{1,2}$", "minLength": 2},
    {"type": "string", "pattern": r"^\d+$"},
    {"type": "string", "enum": ["", "ab", 'a"b', "12"]},
    {"const": "12"},
    {"enum": ["null", "5"]},
    {"oneOf": [{"const": "a"}, {"const": "ab", "description": "both"}]},
    {"anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "pattern": "^abc"}]},
    {"allOf": [{"$ref": "#/$defs/color"}, {"maxLength": 1}]},
    {"$ref": "#/$defs/color", "default": "red"},
    {"$ref": "#/properties/other"},
]
OTHERS: list[Any] = [
    {},
    True,
    {"type": ["string", "null"]},
    {"type": ["string", "null"], "maxLength": 2},
    {"type": ["string", "integer"], "minimum": 6},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"anyOf": [{"type": "string", "minLength": 4}, {"type": "null"}]},
    {"enum": ["a", 5, None]},
    {"type": "integer", "minimum": 6},
    {"$ref": "#/$defs/few"},
    {"type": "array", "items": {"$ref": "#/$defs/few"}},
]
VALUES = (
    "", "a", "ab", "abc", "xbx", "red", 'a"b', "a\nb", "ü", "12", "5", "null", '"a"', '"abcd"', "[1]", "[13]",
    "a</parameter>", "\n", "a^",
)  # fmt: skip


def parameters_of(schema: Any) -> dict[str, Any]:
    properties = {"it": schema, "other": {"type": "string", "pattern": "c$"}}
    return {"type": "object", "properties": properties, "required": ["it"], "$defs": DEFS}


def grammar_of(parameters: dict[str, Any]) -> str | None:
    held = held_schema(parameters, "tools", strict=True, closed=True)
    use = ToolUse(offered=(Tool(name="get", parameters=held.schema),), mode="required")
    return AnswerRules(forms=ChatForms(tools=FORM), use=use).grammar(words(True))


def call(*elements: tuple[str, str]) -> str:
    return FORM.written("get", "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in elements))


def arguments(parameters: dict[str, Any], text: str) -> Any:
    whole = AnswerParser(form=FORM, tools=[Tool(name="get", parameters=parameters)]).whole(text)
    return json.loads(whole.calls[0].arguments)


@pytest.mark.parametrize("schema", [*TEXTS, *OTHERS], ids=str)
def test_what_is_taken_is_valid_once_it_is_read(schema: Any) -> None:
    """Brute force over short values. Of schemas of texts every valid one is taken."""
    parameters = parameters_of(schema)
    assert not left_out_of(parameters)
    grammar, validator, taken = grammar_of(parameters), Draft202012Validator(parameters), 0
    for value in VALUES:
        text = call(("it", value))
        found = arguments(parameters, text)
        valid = validator.is_valid(found)
        takes_it = takes(grammar, text, True)
        taken += takes_it
        assert valid or not takes_it, value
        if schema in TEXTS:
            assert takes_it == (valid and "</parameter>" not in value), value
    assert taken


def test_elements_come_in_order_and_others_where_they_may() -> None:
    closed = grammar_of(parameters_of({"type": "string"}))
    it, other, more = ("it", "x"), ("other", "abc"), ("more", "7")
    assert takes(closed, call(it, other), True)
    for elements in ((other, it), (other,), (it, more), (it, it)):
        assert not takes(closed, call(*elements), True)
    for schema, values in ((True, ("x", "7")), ({"type": "integer"}, ("7",))):
        open_ = grammar_of(parameters_of({"type": "string"}) | {"additionalProperties": schema})
        for value in ("x", "7"):
            assert takes(open_, call(it, ("more", value), ("m", value)), True) == (value in values)
        assert not takes(open_, call(it, it), True)
    found = arguments(parameters_of({}) | {"additionalProperties": {"type": "integer"}}, call(more))
    assert found == {"more": 7}
    assert takes(grammar_of({"type": "object"}), call(), True)
    assert takes(grammar_of({"type": "object"}), call(more, it), True)
    empty = grammar_of({"type": "object", "additionalProperties": False})
    assert takes(empty, call(), True) and not takes(empty, call(more), True)


@pytest.mark.parametrize(
    ("parameters", "left_out"),
    [
        ({"properties": {"a/b": {"type": "string", "format": "date"}}}, [("format", "/properties/a~1b")]),
        ({"properties": {"a": {"type": "string", "pattern": "(^a)b"}}}, [("pattern", "/properties/a")]),
        (
            {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "string", "format": "date"}]}}},
            [("format", "/properties/a/anyOf/1")],
        ),
        ({"additionalProperties": {"type": "string", "format": "date"}}, [("format", "/additionalProperties")]),
        ({"properties": {}, "minProperties": 1, "patternProperties": {}},
         [("patternProperties", "/"), ("minProperties", "/")]),
        ({"properties": {"a": {"type": ["string", "null"], "format": "date"}}}, []),
    ],
)  # fmt: skip
def test_what_is_not_held_is_named(parameters: dict[str, Any], left_out: list[tuple[str, str]]) -> None:
    assert left_out_of(parameters) == left_out


def test_references_in_circles_end() -> None:
    values = ElementValues(parameters_of({"$ref": "#/$defs/loop"}))
    assert values.kinds({"$ref": "#/$defs/loop"}) == frozenset()
    values.terminal({"type": "string", "$ref": "#/$defs/loop"})
    assert [keyword for keyword, _ in values.left_out] == ["$ref"]
