"""Structured output from Python and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.compute.grammars.schemas import check_document
from tests.support.tiny_chat import write_tiny_chat
from weft.base.errors import RequestError
from weft.cli.main import main

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("structured") / "tiny")


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[weft.LLM]:
    with weft.LLM(model, layout={"attention.dp": 2, "dense.tp": 2}, max_num_seqs=4) as made:
        yield made


def answers(llm: weft.LLM, outputs: Any, **params: Any) -> list[str]:
    asked = weft.SamplingParams(max_tokens=150, structured_outputs=outputs, **params)
    found = [output for result in llm.generate(["one", "two", "three"], asked) for output in result.outputs]
    return [output.text for output in found if output.finish_reason == "stop"]


def test_answers_are_what_was_asked_for(llm: weft.LLM) -> None:
    documents = answers(llm, weft.StructuredOutputs(json=SCHEMA), n=2, seed=1)
    assert documents
    for document in documents:
        check_document(document, SCHEMA)
    assert {*answers(llm, {"choice": ["yes", "no"]}, n=3)} <= {"yes", "no"}
    assert all({*text} <= {*"ab"} and len(text) == 3 for text in answers(llm, {"regex": "[ab]{3}"}))
    assert answers(llm, {"grammar": 'root ::= "x" "y"'}) == ["xy"] * 3


def test_a_prompt_may_have_another_constraint_than_its_neighbour(llm: weft.LLM) -> None:
    params = [
        weft.SamplingParams(max_tokens=5, structured_outputs=weft.StructuredOutputs(choice=["one"])),
        weft.SamplingParams(max_tokens=5, temperature=0.0),
        weft.SamplingParams(max_tokens=5, structured_outputs=weft.StructuredOutputs(choice=["two"])),
    ]
    found = [result.outputs[0].text for result in llm.generate(["a", "b", "c"], params)]
    alone = llm.generate("b", params[1])[0].outputs[0].text
    assert found == ["one", alone, "two"]


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"json": {"not": {}}}, "'not'"),
        ({"regex": "("}, "unclosed"),
        ({"regex": "a", "choice": ["b"]}, "regex and choice"),
        ({}, "nothing"),
        ({"yaml": "x"}, "yaml"),
        (5, "StructuredOutputs"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(llm: weft.LLM, outputs: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        answers(llm, outputs)


def test_rules_that_no_grammar_goes_with_are_refused(llm: weft.LLM) -> None:
    for rule in ({"min_tokens": 2}, {"ignore_eos": True}, {"allowed_token_ids": (65,)}, {"bad_words": ("b",)}):
        with pytest.raises(RequestError, match="beside a grammar"):
            answers(llm, {"choice": ["a"]}, **rule)


def test_the_terminal_takes_files_and_texts(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    assert main(["generate", str(model), "Hello", "--raw", "--json-schema", str(schema)]) == 0
    check_document(capsys.readouterr().out.strip(), SCHEMA)
    assert main(["generate", str(model), "Hello", "--json-schema", str(tmp_path / "none.json")]) == 2
    assert "--json-schema" in capsys.readouterr().err
    assert main(["generate", str(model), "Hello", "--regex", "a", "--choice", "b"]) == 2
