"""What pydantic-ai asks of a server for a typed answer: `python pydantic_ai_calls.py URL MODEL`."""

from __future__ import annotations

import sys

from openai_calls import CALLS, call, report
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from structured_calls import TOKENS, Pet

CALLS.clear()


@call
def native_output(url: str, model: str) -> None:
    chat = OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    agent = Agent(chat, output_type=NativeOutput(Pet), model_settings={"max_tokens": TOKENS})
    assert isinstance(agent.run_sync("Hello").output, Pet)


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
