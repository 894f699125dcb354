"""What openai-agents asks of a server through its chat model, and through its default class: a JSON line for each call.

`python openai_agents_calls.py URL MODEL`
"""

from __future__ import annotations

import sys
from typing import Literal

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from openai_calls import CALLS, call, report

CALLS.clear()
set_tracing_disabled(True)
CALLED: list[str] = []


@function_tool
def get_weather(city: Literal["Paris", "London"]) -> str:
    """The weather of a city."""
    CALLED.append(city)
    return f"Sunny in {city}"


def agent_of(url: str, model: str) -> Agent:
    """An agent that must call its tool first and may say anything then."""
    one = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    settings = ModelSettings(tool_choice="required", max_tokens=200, parallel_tool_calls=False, temperature=0.0)
    chat = OpenAIChatCompletionsModel(model=model, openai_client=one)
    return Agent(name="helper", instructions="Help.", model=chat, tools=[get_weather], model_settings=settings)


@call
def a_loop_with_a_tool(url: str, model: str) -> None:
    CALLED.clear()
    agent = agent_of(url, model)
    agent.tool_use_behavior = "stop_on_first_tool"
    result = Runner.run_sync(agent, "Hello", max_turns=3)
    assert CALLED and result.final_output == f"Sunny in {CALLED[0]}"


@call
def a_loop_with_a_tool_through_the_default_class(url: str, model: str) -> None:
    """The model is a name: the library asks for a response."""
    CALLED.clear()
    set_default_openai_client(
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), use_for_tracing=False
    )
    agent = agent_of(url, model)
    agent.model, agent.tool_use_behavior = model, "stop_on_first_tool"
    result = Runner.run_sync(agent, "Hello", max_turns=3)
    assert CALLED and result.final_output == f"Sunny in {CALLED[0]}"


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
