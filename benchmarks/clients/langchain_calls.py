"""What langchain-openai asks of a server: `python langchain_calls.py URL MODEL` prints a JSON line for each call."""

from __future__ import annotations

import sys

from langchain_openai import ChatOpenAI, OpenAI
from openai_calls import CALLS, call, report
from structured_calls import BRACE, TOKENS, Pet

CALLS.clear()


def model_of(url: str, model: str, **settings: object) -> ChatOpenAI:
    """A chat model on the server."""
    most = settings.pop("max_completion_tokens", 4)
    return ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, max_tokens=most, max_retries=0, **settings)


@call
def invoke(url: str, model: str) -> None:
    answer = model_of(url, model).invoke("Hello")
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] <= 4


@call
def stream(url: str, model: str) -> None:
    chunks = list(model_of(url, model, stream_usage=True).stream("Hello"))
    assert any(chunk.usage_metadata for chunk in chunks)


@call
def batch(url: str, model: str) -> None:
    assert len(model_of(url, model).batch(["Hello", "World"])) == 2


@call
def logprobs(url: str, model: str) -> None:
    assert model_of(url, model).bind(logprobs=True).invoke("Hello").response_metadata["logprobs"]["content"]


@call
def completion(url: str, model: str) -> None:
    OpenAI(base_url=f"{url}/v1", api_key="none", model=model, max_tokens=4, max_retries=0).invoke("Hello")


@call
def completion_stream(url: str, model: str) -> None:
    list(OpenAI(base_url=f"{url}/v1", api_key="none", model=model, max_tokens=4, max_retries=0).stream("Hello"))


@call
def with_structured_output(url: str, model: str) -> None:
    made = model_of(url, model, max_completion_tokens=TOKENS).with_structured_output(Pet, method="json_schema")
    assert isinstance(made.invoke("Hello"), Pet)


@call
def with_json_mode(url: str, model: str) -> None:
    made = model_of(url, model, max_completion_tokens=TOKENS, logit_bias=BRACE)
    assert isinstance(made.with_structured_output(None, method="json_mode").invoke("Hello"), dict)


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
