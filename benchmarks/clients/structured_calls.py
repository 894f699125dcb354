"""Structured output through the official openai client: `python structured_calls.py URL MODEL`, as `openai_calls.py`.

The documents are short whatever the model says, so that a random one ends them, too.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import openai
from openai_calls import CALLS, HELLO, call, client, report
from pydantic import BaseModel, ConfigDict

CALLS.clear()
TOKENS = 400
BRACE = {"92": 30.0}
"""Id of a closing brace in the tiny vocabulary: a free object then ends soon."""


class Pet(BaseModel):
    """What answers are; without more properties, of which a random model would write many."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat", "dog"]
    tame: bool


def ask(url: str, served: str, /, **fields: Any) -> str:
    """The text of a chat's answer."""
    with client(url) as one:
        answer = one.chat.completions.create(**{"model": served, "messages": HELLO, "max_tokens": TOKENS, **fields})
    assert answer.choices[0].finish_reason == "stop"
    return str(answer.choices[0].message.content)


@call
def parse(url: str, model: str) -> None:
    with client(url) as one:
        completions = one.chat.completions if hasattr(one.chat.completions, "parse") else one.beta.chat.completions
        answer = completions.parse(model=model, messages=HELLO, max_tokens=TOKENS, response_format=Pet)
    assert isinstance(answer.choices[0].message.parsed, Pet)


@call
def parse_stream(url: str, model: str) -> None:
    with client(url) as one:
        helper = one.chat.completions if hasattr(one.chat.completions, "stream") else one.beta.chat.completions
        with helper.stream(model=model, messages=HELLO, max_tokens=TOKENS, response_format=Pet) as stream:
            answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Pet)


@call
def json_object(url: str, model: str) -> None:
    answer = ask(url, model, response_format={"type": "json_object"}, logit_bias=BRACE)
    assert isinstance(json.loads(answer), dict)


@call
def json_schema(url: str, model: str) -> None:
    named = {"name": "pet", "strict": True, "schema": Pet.model_json_schema()}
    Pet.model_validate_json(ask(url, model, response_format={"type": "json_schema", "json_schema": named}))


@call
def choice_of_vllm(url: str, model: str) -> None:
    assert ask(url, model, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}) in ("yes", "no")
    assert ask(url, model, extra_body={"guided_choice": ["yes", "no"]}) in ("yes", "no")


@call
def regex_and_grammar_of_vllm(url: str, model: str) -> None:
    assert ask(url, model, extra_body={"structured_outputs": {"regex": "[ab]{3}"}}).strip("ab") == ""
    assert ask(url, model, extra_body={"structured_outputs": {"grammar": 'root ::= "x" "y"'}}) == "xy"


@call
def completions(url: str, model: str) -> None:
    with client(url) as one:
        answer = one.completions.create(
            model=model, prompt="A pet:", max_tokens=TOKENS, extra_body={"guided_json": Pet.model_json_schema()}
        )
    Pet.model_validate_json(answer.choices[0].text)


@call
def a_schema_that_cannot_be_held(url: str, model: str) -> None:
    schema = {"type": "array", "uniqueItems": True}
    try:
        ask(url, model, extra_body={"guided_json": schema})
    except openai.BadRequestError as error:
        assert "uniqueItems" in str(error)
    else:
        raise AssertionError("it was not refused")


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
