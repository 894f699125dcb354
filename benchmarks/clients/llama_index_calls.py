"""What llama-index asks of a server for a typed answer and tools: `python llama_index_calls.py URL MODEL`."""

import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from openai_calls import CALLS, call, report
from structured_calls import TOKENS, Pet

CALLS.clear()


@call
def structured_output_for_a_chat_model(url: str, model: str) -> None:
    made = OpenAILike(
        model=model,
        api_base=f"{url}/v1",
        api_key="none",
        is_chat_model=True,
        max_tokens=TOKENS,
        max_retries=0,
        should_use_structured_outputs=True,
    )
    answer = made.as_structured_llm(Pet).chat([ChatMessage(role="user", content="Hello")])
    assert isinstance(answer.raw, Pet)


# Annotations are read by the library, which does not look up names in this module: they are no strings here.
def get_weather(city: Literal["Paris", "London"]) -> str:
    """The weather of a city."""
    return f"Sunny in {city}"


TOOLS = [FunctionTool.from_defaults(get_weather)]


def caller(url: str, model: str) -> OpenAILike:
    """A chat model that calls tools."""
    return OpenAILike(
        model=model,
        api_base=f"{url}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=TOKENS,
        max_retries=0,
        temperature=0.0,
    )


@call
def chat_with_tools(url: str, model: str) -> None:
    one = caller(url, model)
    answer = one.chat_with_tools(TOOLS, user_msg="Hello", tool_required=True, allow_parallel_tool_calls=False)
    (selected,) = one.get_tool_calls_from_response(answer)
    assert selected.tool_name == "get_weather" and selected.tool_kwargs["city"] in ("Paris", "London")


@call
def stream_chat_with_tools(url: str, model: str) -> None:
    one = caller(url, model)
    *_, last = one.stream_chat_with_tools(TOOLS, user_msg="Hello", tool_required=True, allow_parallel_tool_calls=False)
    assert one.get_tool_calls_from_response(last)[0].tool_name == "get_weather"


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
