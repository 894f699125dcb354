"""Tokens of a whole request."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from weft.engine.core.choice import Choice
from weft.frontend.server.openai.records import AnswerDetails, PromptDetails, Usage


def usage_of(choices: Sequence[Choice], n: int, thoughts: int | None) -> Usage:
    """A prompt counts once, however many outputs it has. `thoughts`: tokens of reasoning; None: not a chat."""
    prompt = sum(choice.prompt_tokens for choice in choices[::n])
    completion = sum(choice.completion_tokens for choice in choices)
    cached = sum(choice.cached_tokens for choice in choices[::n])
    details = UNSET if thoughts is None else AnswerDetails(thoughts)
    return Usage(prompt, completion, prompt + completion, PromptDetails(cached), details)
