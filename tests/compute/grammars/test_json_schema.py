"""Schemas as grammars: nothing invalid is accepted, what is left out is named, bounds; the drafts' own suites."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.compute.grammars.json_schema_suite import suite
from tests.compute.grammars.schemas import SCHEMAS
from tests.compute.grammars.vocabularies import small_vocabulary
from weft.base.errors import RequestError
from weft.compute.grammars.base import GrammarError
from weft.compute.grammars.constraints import Check, Constraint, Grammar, grammar_of
from weft.compute.grammars.json_schema import FORMATS, MAX_DEPTH, held_schema
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.compute.grammars.one_of import told_apart

COMPILER = LLGuidanceCompiler(small_vocabulary())
CHECK = Check(COMPILER.check, {})
NOT_HELD = {
    "draft2020-12": {
        "$dynamicRef", "$id", "contains", "dependentRequired", "dependentSchemas", "if", "not", "oneOf",
        "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
    },
    "draft7": {"$id", "contains", "dependencies", "if", "not", "oneOf", "propertyNames", "then", "uniqueItems"},
}  # fmt: skip
"""Keywords for which a case of the suite is refused."""


def compiled(schema: Any, *, strict: bool = True) -> Grammar:
    return grammar_of(Constraint(kind="json", value=schema, strict=strict, param="schema"), CHECK)


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether `text`, byte by byte, is a whole answer."""
    automaton = COMPILER.compile(grammar.text)
    try:
        automaton.feed([*text.encode(), 270])
    except GrammarError:
        return False
    return True


@pytest.mark.parametrize("draft", NOT_HELD)
def test_of_the_suite_nothing_invalid_is_accepted(draft: str) -> None:
    compiles, accepted, refused = 0, 0, Counter[str]()
    for name, cases in suite(draft).items():
        for case in cases:
            if not isinstance(case["schema"], dict):
                continue
            try:
                grammar = compiled(case["schema"])
            except RequestError as error:
                text = str(error)
                refused[text.split("has '")[1].split("'")[0] if "no grammar can hold" in text else "other"] += 1
                continue
            compiles += 1
            for test in case["tests"]:
                found = accepts(grammar, json.dumps(test["data"]))
                accepted += found
                assert test["valid"] or not found, (name, case["description"], test["description"])
    assert compiles >= 160 and accepted >= 380
    assert {*refused} - {"other"} == NOT_HELD[draft]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_schemas_accept_exactly_valid_documents(data: st.DataObject) -> None:
    """Documents as `json.dumps` writes them, with keys in the schema's order."""
    schema = data.draw(SCHEMAS, label="schema")
    grammar = compiled(schema)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    atoms = st.sampled_from([None, True, 0, 3, -50, "", "x", "ab", "ja", "\n", 1, [1, {}], "2020-02-03"])
    values = st.recursive(
        atoms,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "name"]), inner),
        max_leaves=4,
    )
    for document in data.draw(st.lists(values, max_size=12), label="documents"):
        if isinstance(document, dict) and isinstance(schema.get("properties"), dict):
            names = [*schema["properties"], *document]
            document = {name: document[name] for name in names if name in document}
        found, valid = accepts(grammar, json.dumps(document)), validator.is_valid(document)
        assert valid if found else isinstance(document, dict | list) or not valid


VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    "x",
    "y",
    [],
    {},
    {"k": "x"},
    {"k": "y"},
    {"k": 1},
    {"k": "x", "l": 1},
)
BRANCHES: tuple[dict[str, Any], ...] = (
    {},
    {"type": "string"},
    {"type": ["string", "null"]},
    {"type": "integer"},
    {"type": "number"},
    {"const": "x"},
    {"enum": ["y", 1.0]},
    {"const": 1},
    {"const": True},
    {"type": "object", "required": ["k"], "properties": {"k": {"const": "x"}}},
    {"type": "object", "required": ["k"], "properties": {"k": {"enum": ["y", "z"]}}},
    {"type": "object", "properties": {"k": {"const": "y"}}},
    {"required": ["k"], "properties": {"k": {"const": "y"}}},
    {"type": "object", "required": ["l"], "properties": {"k": {"const": "y"}}},
    {"$ref": "#/$defs/text"},
)
ROOT = {"$defs": {"text": {"type": "string"}}}


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(BRANCHES, 2)], ids=str)
def test_branches_that_are_told_apart_never_both_match(one: dict[str, Any], other: dict[str, Any]) -> None:
    if told_apart([one, other], ROOT):
        for value in VALUES:
            assert not all(Draft202012Validator({**ROOT, **each}).is_valid(value) for each in (one, other)), value


def test_branches_are_told_apart_by_type_value_and_tag() -> None:
    pairs = [(1, 3), (5, 6), (5, 7), (7, 8), (9, 10), (3, 14), (1, 9)]
    assert all(told_apart([BRANCHES[i], BRANCHES[j]], ROOT) for i, j in pairs)
    tagged = {"oneOf": [BRANCHES[9], BRANCHES[10]]}
    grammar = compiled(tagged)
    assert accepts(grammar, '{"k": "x"}') and accepts(grammar, '{"k": "z"}') and not accepts(grammar, '{"k": 1}')


def test_what_is_left_out_is_named_and_the_rest_holds() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer", "not": {"const": 3}}, "uniqueItems": True},
            "b": {"type": "string", "pattern": "x(?=y)"},
            "c": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "d": {"format": "color", "x-nullable": True},
        },
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    }
    grammar = compiled(schema, strict=False)
    assert grammar.left_out == (
        "not at /properties/a/items", "uniqueItems at /properties/a", "oneOf at /properties/c",
        "pattern at /properties/b",
    )  # fmt: skip
    assert accepts(grammar, '{"a": [3, 3], "b": "", "c": 1}')
    assert not accepts(grammar, '{"a": ["3"], "b": "", "c": 1}') and not accepts(grammar, '{"a": []}')
    with pytest.raises(RequestError, match="'not' at '/properties/a/items'"):
        compiled(schema)


def test_keywords_that_mean_nothing_where_they_stand_are_no_fault() -> None:
    schema = {
        "uniqueItems": False, "then": {}, "else": {}, "minContains": 2, "unevaluatedProperties": True,
        "dependentRequired": {}, "title": "x", "description": "y", "default": 1, "examples": [], "minItems": 1.0,
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "z", "deprecated": True,
    }  # fmt: skip
    assert compiled(schema).left_out == ()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_are_held(name: str) -> None:
    grammar = compiled({"type": "string", "format": name})
    assert not accepts(grammar, '"no such thing!"')


def test_white_space_is_bounded() -> None:
    grammar = compiled({"type": "array", "items": {"type": "null"}})
    for space, fine in ((" ", True), ("\n", True), ("\n\n" + 20 * " ", True), ("\n\n\n", False), ("  ", False)):
        assert accepts(grammar, f"[{space}null]") == fine
    assert not accepts(grammar, "[] ") and not accepts(grammar, " []")


def test_depth_and_kinds_are_bounded() -> None:
    deep: Any = {}
    for _ in range(MAX_DEPTH + 2):
        deep = {"items": deep}
    wrong: list[Any] = [deep, 5, "x", [], {"properties": 5}, {"anyOf": {}}, {"items": 5}, {"properties": {"a": 1}}]
    for schema in wrong:
        with pytest.raises(RequestError) as caught:
            held_schema(schema, "schema", strict=False)
        assert caught.value.param == "schema"


def test_references_may_be_recursive() -> None:
    tree = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}
    grammar = compiled(tree)
    assert accepts(grammar, "[[], [[]]]") and not accepts(grammar, "[1]")
