"""What weft.LLM returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from weft.engine.core.outputs import TokenLogprob


@dataclass(slots=True)
class CompletionOutput:
    """One output of a prompt. `token_ids` include the token that ended it, `text` does not."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class Result:
    """A prompt and its outputs. `prompt`: the text, None where ids were given."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """Where asked for: of every prompt token but the first."""
