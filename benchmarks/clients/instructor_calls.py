"""What instructor asks of a server in its modes for JSON and tools: `python instructor_calls.py URL MODEL`."""

from __future__ import annotations

import sys
from typing import Any, Literal

import instructor
from openai_calls import CALLS, HELLO, call, client, report
from pydantic import BaseModel, ConfigDict
from structured_calls import BRACE, TOKENS, Pet

CALLS.clear()


class Anything(BaseModel):
    """Any object: the mode JSON sends no schema that binds."""

    model_config = ConfigDict(extra="allow")


def ask(url: str, served: str, /, mode: Any, kind: type[BaseModel], **fields: Any) -> BaseModel:
    """An answer as a record."""
    with client(url) as one:
        patched = instructor.from_openai(one, mode=mode)
        answer = patched.chat.completions.create(
            model=served, messages=HELLO, max_tokens=TOKENS, response_model=kind, max_retries=0, **fields
        )
    assert isinstance(answer, kind)
    return answer


@call
def json_schema(url: str, model: str) -> None:
    ask(url, model, instructor.Mode.JSON_SCHEMA, Pet)


@call
def json_mode(url: str, model: str) -> None:
    ask(url, model, instructor.Mode.JSON, Anything, logit_bias=BRACE)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "London"]
    sunny: bool


@call
def tools(url: str, model: str) -> None:
    ask(url, model, instructor.Mode.TOOLS, Weather)


@call
def tools_strict(url: str, model: str) -> None:
    ask(url, model, instructor.Mode.TOOLS_STRICT, Weather)


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
