"""What pydantic-ai asks of a server for a typed answer and tools: `python pydantic_ai_calls.py URL MODEL`."""

from __future__ import annotations

import sys
from typing import Literal

from openai_calls import CALLS, call, report
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from structured_calls import TOKENS, Pet

CALLS.clear()


@call
def native_output(url: str, model: str) -> None:
    chat = OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    agent = Agent(chat, output_type=NativeOutput(Pet), model_settings={"max_tokens": TOKENS})
    assert isinstance(agent.run_sync("Hello").output, Pet)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "London"]
    sunny: bool


@call
def output_by_tool(url: str, model: str) -> None:
    chat = OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    agent = Agent(chat, output_type=ToolOutput(Weather), model_settings={"max_tokens": TOKENS})
    assert isinstance(agent.run_sync("Hello").output, Weather)


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
