"""What langchain-openai asks of a server: `python langchain_calls.py URL MODEL` prints a JSON line for each call."""

from __future__ import annotations

import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from openai_calls import CALLS, call, report
from pydantic import BaseModel
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


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "London"]


@tool
def get_weather(city: Literal["Paris", "London"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}"


def caller(url: str, model: str, choice: str) -> Any:
    """A model that may or must call."""
    made = model_of(url, model, max_completion_tokens=TOKENS, temperature=0)
    return made.bind_tools([get_weather], tool_choice=choice, parallel_tool_calls=False)


@call
def bind_tools(url: str, model: str) -> None:
    answer = caller(url, model, "any").invoke("Hello")
    assert [one["name"] for one in answer.tool_calls] == ["get_weather"] and not answer.invalid_tool_calls
    caller(url, model, "auto").invoke([HumanMessage("Hello"), answer, get_weather.invoke(answer.tool_calls[0])])


@call
def bind_tools_stream(url: str, model: str) -> None:
    first, *rest = caller(url, model, "get_weather").stream("Hello")
    for chunk in rest:
        first += chunk
    assert first.tool_calls[0]["args"]["city"] in ("Paris", "London")


@call
def with_structured_output_by_tool(url: str, model: str) -> None:
    made = model_of(url, model, max_completion_tokens=TOKENS).with_structured_output(Weather, method="function_calling")
    assert isinstance(made.invoke("Hello"), Weather)


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
