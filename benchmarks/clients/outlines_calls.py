"""What outlines asks of a server: `python outlines_calls.py URL MODEL`."""

from __future__ import annotations

import json
import sys
from typing import Literal

import openai
import outlines
from openai_calls import CALLS, call, report
from outlines.types import CFG, Regex
from structured_calls import TOKENS, Pet

CALLS.clear()


@call
def a_record_through_its_openai_model(url: str, model: str) -> None:
    made = outlines.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), model)
    Pet.model_validate_json(made("Hello", Pet, max_tokens=TOKENS))


@call
def every_kind_through_its_vllm_model(url: str, model: str) -> None:
    made = outlines.from_vllm(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), model)
    assert json.loads(made("Hello", Pet, max_tokens=TOKENS))["kind"] in ("cat", "dog")
    assert made("Hello", Literal["yes", "no"], max_tokens=TOKENS) in ("yes", "no")
    assert made("Hello", Regex("[ab]{2}"), max_tokens=TOKENS).strip("ab") == ""
    assert made("Hello", CFG('start: "x" "y"'), max_tokens=TOKENS) == "xy"


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
