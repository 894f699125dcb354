"""Limits of a context and of a step that follow from the model and the layout. No torch."""

from __future__ import annotations

from dataclasses import replace

from weft.base.errors import ConfigError
from weft.base.settings import TOKENS_PER_STEP, EngineConfig
from weft.parallel.layout.layout import Layout

FEWEST_TOKENS, WHOLE = 256, 64
"""Of a step of pipeline stages, where nothing is asked for, at least; and what they are a multiple of."""


def check_context(max_model_len: int | None, longest: int) -> None:
    """ConfigError: a context beyond the model's `longest`."""
    if max_model_len is not None and max_model_len > longest:
        raise ConfigError(
            f"max_model_len {max_model_len}: the model's context is {longest} tokens; legal: 2 to {longest}",
            field="max_model_len",
            value=max_model_len,
        )


def with_step_tokens(engine: EngineConfig, layout: Layout) -> EngineConfig:
    """`max_num_batched_tokens` named, where it was left to be decided.

    Pipeline stages are idle until the first chunk of a prompt has come through the stages before them, and prompts of
    one step run one after the other: with stages a step has half of an even part of the tokens that it has without. A
    chunk of context parallel ranks has whole blocks of each of them, and every running request has a row in a step."""
    if engine.max_num_batched_tokens is not None:
        return engine
    stages, tokens = layout.pipeline.stages, TOKENS_PER_STEP
    if stages > 1:
        even = TOKENS_PER_STEP // (2 * stages) // WHOLE * WHOLE
        tokens = max(FEWEST_TOKENS, even, engine.max_num_seqs)
        if layout.attention.cp > 1:
            chunk = engine.tokens_per_block * layout.kv_owners
            tokens = -(-tokens // chunk) * chunk
    return replace(engine, max_num_batched_tokens=tokens)
