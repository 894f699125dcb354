"""Words that an answer may not hold, as runs of token ids."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from weft.base.step.sampling_params import SamplingParams, check
from weft.engine.text.tokenizer import Tokenizer


def bad_runs(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word as it is tokenized at the start of a text and, where that is one more way of as many tokens, after a
    space (vLLM's rule). Other spellings of a word stay possible."""
    runs: dict[tuple[int, ...], None] = {}
    for word in words:
        plain = tuple(tokenizer.encode(word.lstrip(), add_special_tokens=False))
        spaced = tuple(tokenizer.encode(" " + word.lstrip(), add_special_tokens=False))
        if plain:
            runs[plain] = None
        if spaced and len(spaced) == len(plain) and spaced[0] != plain[0]:
            runs[spaced] = None
    return tuple(runs)


def with_bad_runs(params: SamplingParams, runs: Sequence[tuple[int, ...]], vocab_size: int) -> SamplingParams:
    """`params` with the `runs` of its `bad_words`. RequestError: they leave none of `allowed_token_ids`."""
    changed = replace(params, bad_words=(), bad_token_ids=(*params.bad_token_ids, *runs))
    check(changed, vocab_size)
    return changed
