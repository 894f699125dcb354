"""Schemas as grammars: nothing invalid is accepted, what is left out is named, bounds; the drafts' own suites."""

from __future__ import annotations

import itertools
import json
import re
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
from weft.compute.grammars.json_schema import MAX_DEPTH, held_schema
from weft.compute.grammars.keywords import FORMATS
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
    {"type": "object", "required": ["k"], "additionalProperties": False, "properties": {"k": {}}},
    {"type": "object", "required": ["l"], "additionalProperties": False, "properties": {"l": {}}},
    {"type": "object", "properties": {"k": {"type": "integer"}}},
    {"allOf": [{"type": "object", "required": ["k"]}, {"properties": {"k": {"const": "x"}}}]},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"$ref": "#/$defs/text"},
)
ROOT = {"$defs": {"text": {"type": "string"}}}


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(BRANCHES, 2)], ids=str)
def test_branches_that_are_told_apart_never_both_match(one: dict[str, Any], other: dict[str, Any]) -> None:
    if told_apart([one, other], ROOT):
        for value in VALUES:
            assert not all(Draft202012Validator({**ROOT, **each}).is_valid(value) for each in (one, other)), value


def test_branches_are_told_apart_by_type_value_and_tag() -> None:
    pairs = [(1, 3), (5, 6), (5, 7), (7, 8), (9, 10), (3, 19), (1, 9), (14, 15), (9, 16), (9, 11), (1, 18)]
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


NOTHING = {"allOf": [{"type": "null"}, {"type": "array"}]}
TEXTS = {"a": {"type": "string"}, "b": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "minProperties": 5}, "minProperties at /"),
        ({"type": "object", "properties": TEXTS, "maxProperties": 1}, "maxProperties at /"),
        ({"prefixItems": [{"type": "object", "minProperties": 3}]}, "minProperties at /prefixItems/0"),
        ({"items": {"$ref": "#/$defs/t"}, "$defs": {"t": {"pattern": "(?=a)"}}}, "pattern at /$defs/t"),
        ({"patternProperties": {"(": {}}}, "patternProperties at /"),
        ({"$ref": "#", "type": "object"}, "$ref at /"),
        ({"prefixItems": [{"minimum": 1e40}]}, "minimum at /prefixItems/0"),
    ],
)  # fmt: skip
def test_a_keyword_that_does_not_compile_is_named_alone(schema: Any, named: str) -> None:
    assert compiled(schema, strict=False).left_out == (named,)
    keyword, _, path = named.partition(" at ")
    with pytest.raises(RequestError, match=f"'{re.escape(keyword)}' at '{re.escape(path)}'"):
        compiled(schema)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"type": "text"}}}, "/properties/a/type"), ({"enum": []}, "/enum"),
        ({"required": "a"}, "/required"), ({"minLength": -1}, "/minLength"), ({"multipleOf": 0}, "/multipleOf"),
        ({"pattern": 5}, "/pattern"), ({"maxItems": 1.5}, "/maxItems"), ({"type": []}, "/type"),
        ({"type": "object", "required": ["a"], "properties": {"a": NOTHING}}, "/properties/a"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_schema_is_refused_by_its_place(schema: Any, place: str) -> None:
    for strict in (True, False):
        with pytest.raises(RequestError, match=f"at '{place}'"):
            compiled(schema, strict=strict)


def test_counts_of_properties_are_counted_right() -> None:
    """By brute force over keys, repeated ones too: what is held is held, the rest is refused."""
    texts = [
        "{" + ", ".join(f'"{key}": 1' for key in keys) + "}"
        for count in range(5)
        for keys in itertools.product("abxy", repeat=count)
    ]
    held = 0
    counts = [
        {},
        {"minProperties": 1},
        {"minProperties": 2},
        {"maxProperties": 1},
        {"minProperties": 1, "maxProperties": 2},
    ]
    for names, required, more, count in itertools.product(("", "a", "ab"), ("", "a", "x"), (None, False), counts):
        schema: dict[str, Any] = {"type": "object", "required": [*required], **count}
        schema |= {"properties": dict.fromkeys(names, {"type": "integer"})} if names else {}
        schema |= {} if more is None else {"additionalProperties": more}
        try:
            grammar = compiled(schema)
        except RequestError:
            continue
        held += 1
        for text in texts:
            assert Draft202012Validator(schema).is_valid(json.loads(text)) or not accepts(grammar, text), (schema, text)
    assert held > 30


def test_references_by_anchor_are_followed() -> None:
    for anchor in ({"$anchor": "here"}, {"$id": "#here"}):
        grammar = compiled({"items": {"$ref": "#here"}, "type": "array", "$defs": {"t": {"type": "null", **anchor}}})
        assert accepts(grammar, "[null]") and not accepts(grammar, "[1]")


def test_a_megabyte_is_taken() -> None:
    parts = {
        f"T{at}": {"type": "object", "description": "x" * 1300, "properties": {"next": {"$ref": f"#/$defs/T{at + 1}"}}}
        for at in range(700)
    }
    schema = {"$ref": "#/$defs/T0", "$defs": {**parts, "T700": {"type": "null"}}}
    assert len(json.dumps(schema)) > 900_000 and accepts(compiled(schema), '{"next": {"next": {}}}')


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
