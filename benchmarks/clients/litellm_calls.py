"""What litellm asks of a server: `python litellm_calls.py URL MODEL` prints a JSON line for each call."""

from __future__ import annotations

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


if __name__ == "__main__":
    sys.exit(report(CALLS, sys.argv[1], sys.argv[2]))
