"""What litellm asks of a server: `python litellm_calls.py URL MODEL` prints a JSON line for each call."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm
from openai_calls import CALLS, HELLO, call, report
from structured_calls import TOKENS, Pet

CALLS.clear()


def ask(url: str, served: str, /, **fields: Any) -> Any:
    """A chat through litellm's provider for OpenAI-compatible servers; fields may replace what stands here."""
    given = {"model": f"hosted_vllm/{served}", "messages": HELLO, "max_tokens": 4, **fields}
    return litellm.completion(api_base=f"{url}/v1", api_key="none", num_retries=0, **given)


@call
def chat(url: str, model: str) -> None:
    assert ask(url, model).usage.completion_tokens <= 4


@call
def chat_through_the_openai_provider(url: str, model: str) -> None:
    assert ask(url, model, model=f"openai/{model}").choices


@call
def chat_stream(url: str, model: str) -> None:
    chunks = list(ask(url, model, stream=True, stream_options={"include_usage": True}))
    assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks)


@call
def sampling_words(url: str, model: str) -> None:
    assert ask(url, model, temperature=0.5, top_p=0.9, seed=1, stop=["x"], logprobs=True, top_logprobs=2).choices


@call
def text_completion(url: str, model: str) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{model}", prompt="Hello", max_tokens=4, api_base=f"{url}/v1", api_key="none"
    )
    assert answer.choices


@call
def response_format(url: str, model: str) -> None:
    for provider in ("hosted_vllm", "openai"):
        answer = ask(url, model, model=f"{provider}/{model}", max_tokens=TOKENS, response_format=Pet)
        Pet.model_validate_json(answer.choices[0].message.content)


PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Paris", "London"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]


def ask_tool(url: str, served: str, /, **fields: Any) -> Any:
    """A chat that must call its tool."""
    given = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": TOKENS}
    return ask(url, served, **given, **fields)


@call
def tools(url: str, model: str) -> None:
    choice = ask_tool(url, model).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments)["city"] in ("Paris", "London")


@call
def tools_stream(url: str, model: str) -> None:
    whole = litellm.stream_chunk_builder(list(ask_tool(url, model, stream=True)))
    assert whole.choices[0].message.tool_calls[0].function.name == "get_weather"


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
