"""What llama-index asks of a server for a typed answer: `python llama_index_calls.py URL MODEL`."""

from __future__ import annotations

import sys

from llama_index.core.llms import ChatMessage
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


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
