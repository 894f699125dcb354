"""Structural tags: what each kind of format takes, in older and newer words, and what it refuses by its place."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compute.grammars.test_json_schema import COMPILER, accepts
from weft.base.errors import RequestError
from weft.compute.grammars.constraints import Check, Constraint, Grammar, grammar_of

NUMBER = {"type": "json_schema", "json_schema": {"type": "integer"}}
A = {"type": "tag", "begin": "<f=a>", "content": NUMBER, "end": "</f>"}
B = {
    "begin": "<f=b>",
    "content": {"type": "grammar", "grammar": 'root ::= "x" root | "x"'},
    "end": ["</f>", "</g>"],
}
FREE, NONE = {"type": "any_text"}, {"type": "const_string", "value": "none"}
THINK = {"type": "tag", "begin": "<think>", "content": FREE, "end": "</think>"}


def tagged(value: dict[str, Any]) -> Grammar:
    return grammar_of(Constraint(kind="structural_tag", value=value, param="tag"), Check(COMPILER.check, {}))


def sequence(*elements: Any) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}


TRIGGERED = {"type": "triggered_tags", "triggers": ["<f="], "tags": [A, B]}
SEPARATED = {"type": "tags_with_separator", "separator": ", ", "tags": [A]}
TAKEN: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (A, ["<f=a>3</f>"], ["<f=a>x</f>", "3", "<f=a>3"]),
    (sequence(NONE, {"type": "regex", "pattern": "[0-9]{2}"}, FREE), ["none12", "none12 !"], ["none1"]),
    (sequence(THINK, {"type": "or", "elements": [NUMBER, NONE]}), ["<think>a < b</think>5"], ["5", "<think></think>x"]),
    (sequence(FREE, NONE, NUMBER), ["all or none7"], ["all or 7"]),
    (TRIGGERED, ["t <f=a>1</f> u <f=b>xx</g>", "no"], ["<f=c>", "<f=b></f>"]),
    (TRIGGERED | {"at_least_one": True}, ["t <f=a>1</f>"], ["no"]),
    (TRIGGERED | {"stop_after_first": True}, ["t <f=a>1</f>", "no"], ["<f=a>1</f>!"]),
    (SEPARATED, ["", "<f=a>1</f>, <f=a>2</f>"], ["<f=a>1</f><f=a>2</f>"]),
    (SEPARATED | {"at_least_one": True, "stop_after_first": True}, ["<f=a>1</f>"], ["", "<f=a>1</f>, <f=a>2</f>"]),
    ({"type": "star", "content": NONE}, ["", "nonenone"], ["non"]),
    ({"type": "plus", "content": NONE}, ["none"], [""]),
    ({"type": "optional", "content": NONE}, ["none", ""], ["nonenone"]),
]


@pytest.mark.parametrize(("given", "good", "bad"), TAKEN)
def test_each_kind_takes_its_texts(given: dict[str, Any], good: list[str], bad: list[str]) -> None:
    grammar = tagged({"format": given})
    assert all(accepts(grammar, text) for text in good) and not any(accepts(grammar, text) for text in bad)


def test_older_words_mean_triggered_tags() -> None:
    older = {"structures": [{"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"}], "triggers": ["<f="]}
    newer = {"type": "triggered_tags", "triggers": ["<f="], "tags": [A]}
    assert tagged(older).text == tagged({"format": newer}).text


def test_keywords_that_are_not_held_are_named() -> None:
    schema = {"type": "array", "uniqueItems": True}
    given = {"format": A | {"content": {"type": "json_schema", "json_schema": schema}}}
    constraint = Constraint(kind="structural_tag", value=given, strict=False, param="tag")
    assert grammar_of(constraint, Check(COMPILER.check, {})).left_out == ("uniqueItems at /",)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (None, "structures"), ({"type": "qwen_xml_parameter"}, "format.type"), ({"type": 5}, "format.type"),
        ([], "type"),
        (sequence(FREE, NUMBER), "format.elements[0]"), (sequence(), "format.elements"), ({"type": "or"}, "elements"),
        (sequence(NONE, {"type": "regex", "pattern": 1}), "format.elements[1].pattern"), (A | {"end": None}, "begin"),
        (A | {"content": 3}, "format.content.type"), (TRIGGERED | {"triggers": ["y"]}, "triggers"),
        (SEPARATED | {"separator": 1}, "separator"), (FREE | {"excludes": ["x"]}, "excludes"),
        (B | {"type": "tag", "content": {"type": "grammar", "grammar": "root ::= ("}}, "line 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_place(given: Any, place: str) -> None:
    with pytest.raises(RequestError) as caught:
        tagged({} if given is None else {"format": given})
    assert caught.value.param == "tag" and place in str(caught.value)
