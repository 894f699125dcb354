"""Tool calls through the official openai client, each with what must come back: whole, streamed, by helper, by agents.

As a program: `python openai_tools.py URL MODEL` prints a JSON line for each call. The model may say anything.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import openai
import pydantic
from openai_calls import HELLO, Call, client, report

CALLS: dict[str, Call] = {}
TOKENS = 200


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "London"]
    unit: Literal["C", "F"]


def tool(name: str, **properties: Any) -> Any:
    """A tool whose arguments are short whatever a model says."""
    parameters = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"To {name}", "parameters": parameters}}


CITY = {"type": "string", "enum": ["Paris", "London"]}
TOOLS = [tool("get_weather", city=CITY), tool("stop")]


def call(function: Call) -> Call:
    """Registers a function of (url, model) under its name."""
    CALLS[function.__name__.replace("_", " ")] = function
    return function


def ask(url: str, served: str, /, **fields: Any) -> Any:
    """A chat with tools; fields may replace what stands here."""
    with client(url, timeout=120) as one:
        given = {"model": served, "messages": HELLO, "tools": TOOLS, "max_tokens": TOKENS, "temperature": 0}
        return one.chat.completions.create(**{**given, **fields})


def checked(calls: Any) -> None:
    """Calls of tools that are there, with arguments that their schemas allow."""
    for one in calls:
        arguments = json.loads(one.function.arguments)
        assert one.id and one.type == "function" and one.function.name in ("get_weather", "stop")
        if one.function.name == "get_weather":
            assert arguments["city"] in CITY["enum"]


@call
def required_whole(url: str, model: str) -> None:
    choice = ask(url, model, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1
    checked(choice.message.tool_calls)


@call
def required_stream(url: str, model: str) -> None:
    with client(url, timeout=120) as one:
        stream = one.chat.completions.create(
            model=model, messages=HELLO, tools=TOOLS, tool_choice="required", parallel_tool_calls=False,
            max_tokens=TOKENS, stream=True, temperature=0,
        )  # fmt: skip
        deltas = [chunk.choices[0] for chunk in stream]
    calls = [one for delta in deltas for one in delta.delta.tool_calls or []]
    assert calls[0].id and calls[0].function.name in ("get_weather", "stop") and not calls[0].function.arguments
    assert isinstance(json.loads("".join(one.function.arguments for one in calls)), dict)
    assert deltas[-1].finish_reason == "tool_calls"


@call
def one_by_name(url: str, model: str) -> None:
    choice = {"type": "function", "function": {"name": "stop"}}
    answer = ask(url, model, tool_choice=choice).choices[0]
    assert [one.function.name for one in answer.message.tool_calls] == ["stop"]
    assert answer.finish_reason == "tool_calls"


@call
def auto(url: str, model: str) -> None:
    choice = ask(url, model, tool_choice="auto", max_tokens=16).choices[0]
    checked(choice.message.tool_calls or [] if choice.finish_reason != "length" else [])


@call
def none(url: str, model: str) -> None:
    assert ask(url, model, tool_choice="none", max_tokens=8).choices[0].message.tool_calls is None


@call
def several_answers(url: str, model: str) -> None:
    answer = ask(url, model, tool_choice="required", parallel_tool_calls=False, n=2, temperature=1.0)
    assert len(answer.choices) == 2
    for choice in answer.choices:
        checked(choice.message.tool_calls)


@call
def parse_helper(url: str, model: str) -> None:
    with client(url, timeout=120) as one:
        parse = (
            one.chat.completions.parse if hasattr(one.chat.completions, "parse") else one.beta.chat.completions.parse
        )
        answer = parse(
            model=model, messages=HELLO, tools=[openai.pydantic_function_tool(Weather)], tool_choice="required",
            parallel_tool_calls=False, max_tokens=TOKENS,
        )  # fmt: skip
    (made,) = answer.choices[0].message.tool_calls
    assert isinstance(made.function.parsed_arguments, Weather)


@call
def stream_helper(url: str, model: str) -> None:
    with client(url, timeout=120) as one:
        helper = one.chat.completions if hasattr(one.chat.completions, "stream") else one.beta.chat.completions
        with helper.stream(
            model=model, messages=HELLO, tools=[openai.pydantic_function_tool(Weather)], tool_choice="required",
            parallel_tool_calls=False, max_tokens=TOKENS,
        ) as stream:  # fmt: skip
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert isinstance(final.choices[0].message.tool_calls[0].function.parsed_arguments, Weather)


@call
def history_of_calls(url: str, model: str) -> None:
    message = ask(url, model, tool_choice="required").choices[0].message
    results = [{"role": "tool", "tool_call_id": one.id, "content": "Sunny"} for one in message.tool_calls]
    answer = ask(url, model, messages=[*HELLO, message, *results], max_tokens=8)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def agent(url: str, model: str, words: int) -> None:
    """An editor's agent: a long system prompt, many tools, calls and results sent back again and again."""
    tools = [tool(name, kind={"enum": ["a", "b"]}) for name in ("read_file", "edit_file", "run", "search", "list_dir")]
    rules = " ".join(["Read files before you edit them."] * (words // 6))
    messages: list[Any] = [{"role": "system", "content": rules}, {"role": "user", "content": "Fix the test."}]
    for turn in range(3):
        answer = ask(url, model, messages=messages, tools=tools, tool_choice="required", parallel_tool_calls=False)
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == "tool_calls", answer.choices[0].finish_reason
        assert message.tool_calls[0].function.name in [one["function"]["name"] for one in tools]
        messages.append(message.model_dump(exclude_none=True))
        parts = [{"type": "text", "text": f"result {turn}"}]
        messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": parts})
    ask(url, model, messages=messages, tools=tools, max_tokens=8, stream=False)


@call
def agent_of_an_editor(url: str, model: str) -> None:
    """As long as the model's context leaves room for: 6,000 tokens of system prompt where there are 8,192."""
    with client(url) as one:
        context = next(card.model_extra["max_model_len"] for card in one.models.list() if card.id == model)
    agent(url, model, 5200 if context >= 8192 else 40)


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
