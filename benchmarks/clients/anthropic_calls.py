"""What anthropic's client asks of a server: a JSON line for each call.

`python anthropic_calls.py URL MODEL`
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

CALLS: dict[str, Callable[[str, str], None]] = {}
HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"enum": ["Paris", "London"]}}, "required": ["city"]},
}


def call(function: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Lists a call by its name in words."""
    CALLS[function.__name__.replace("_", " ")] = function
    return function


def client_of(url: str) -> anthropic.Anthropic:
    """The library's own, without second tries."""
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


@call
def create(url: str, model: str) -> None:
    made = client_of(url).messages.create(model=model, max_tokens=16, messages=HELLO)
    assert made.role == "assistant" and made.usage.output_tokens > 0


@call
def stream(url: str, model: str) -> None:
    with client_of(url).messages.stream(model=model, max_tokens=16, messages=HELLO) as made:
        text = "".join(made.text_stream)
        assert made.get_final_text() == text


@call
def raw_events(url: str, model: str) -> None:
    events = list(client_of(url).messages.create(model=model, max_tokens=8, messages=HELLO, stream=True))
    assert events[0].type == "message_start" and events[-1].type == "message_stop"


@call
def async_create(url: str, model: str) -> None:
    async def made() -> anthropic.types.Message:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            return await client.messages.create(model=model, max_tokens=8, messages=HELLO)

    assert asyncio.run(made()).stop_reason in ("max_tokens", "end_turn")


@call
def count_tokens(url: str, model: str) -> None:
    assert client_of(url).messages.count_tokens(model=model, messages=HELLO, tools=[WEATHER]).input_tokens > 0


@call
def a_loop_with_a_tool(url: str, model: str) -> None:
    client, messages = client_of(url), list(HELLO)
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    made = client.messages.create(model=model, max_tokens=200, messages=messages, tools=[WEATHER], tool_choice=choice)
    assert made.stop_reason == "tool_use"
    used = made.content[-1]
    assert used.type == "tool_use" and used.input["city"] in ("Paris", "London")
    messages += [
        {"role": "assistant", "content": made.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used.id, "content": "Sunny"}]},
    ]
    made = client.messages.create(model=model, max_tokens=8, messages=messages, tools=[WEATHER])
    assert made.stop_reason in ("max_tokens", "end_turn", "tool_use")


@call
def structured_output(url: str, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"rainy": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
        "required": ["rainy", "size"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    made = client_of(url).messages.create(model=model, max_tokens=100, messages=HELLO, output_config=config)
    assert made.content[0].type == "text" and set(json.loads(made.content[0].text)) == {"rainy", "size"}


@call
def an_error(url: str, model: str) -> None:
    try:
        client_of(url).messages.create(model="other", max_tokens=8, messages=HELLO)
    except anthropic.NotFoundError as error:
        assert "other" in str(error)
    else:
        raise AssertionError("another model was served")


def main(url: str, model: str) -> int:
    """0 where every call went well; a line for each."""
    failed = 0
    for name, function in CALLS.items():
        try:
            function(url, model)
            print(json.dumps({"call": name, "ok": True}), flush=True)
        except Exception as error:  # whatever it is, it is the result of this call
            failed += 1
            print(
                json.dumps({"call": name, "ok": False, "error": f"{type(error).__name__}: {error}"[:500]}), flush=True
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
