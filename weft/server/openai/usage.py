"""Tokens of a whole request."""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.choice import Choice
from weft.server.openai.records import PromptDetails, Usage


def usage_of(choices: Sequence[Choice], n: int) -> Usage:
    """A prompt counts once, however many outputs it has."""
    prompt = sum(choice.prompt_tokens for choice in choices[::n])
    completion = sum(choice.completion_tokens for choice in choices)
    cached = sum(choice.cached_tokens for choice in choices[::n])
    return Usage(prompt, completion, prompt + completion, PromptDetails(cached))
