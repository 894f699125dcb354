"""What ranks exchange instead of logits where every row of a decode step is greedy.

As `compute/native/runtime/decode_step.h` has it: an id and a logit of each row from each rank of the attention block.
"""

from __future__ import annotations

from collections.abc import Iterator

from weft.parallel.layout.boundaries import finds_largest, sampled_columns
from weft.parallel.layout.layout import Layout
from weft.tools.explain.notes import LayoutNote

AT_SAMPLING = ("lm_head.out", "sampling.out")
"""Boundaries that nothing moves at in such a step."""
PAIR_BYTES = 16


def largest_bytes(layout: Layout, batches: tuple[int, ...]) -> tuple[int, ...]:
    """What each rank receives at each of `batches` rows in every attention-dp group; empty where logits come
    together all the same, or every rank has all of them."""
    tp = layout.attention.tp
    if tp == 1 or not finds_largest(layout) or layout.pipeline.stages > 1:
        return ()
    return tuple((tp - 1) * batch * PAIR_BYTES for batch in batches)


def largest_note(largest: tuple[int, ...]) -> Iterator[LayoutNote]:
    """Where it makes a difference."""
    if largest:
        text = "lm_head.out and sampling.out: of steps with a row that is drawn"
        instead = "with greedy decoding in every row, ranks exchange only the largest logits, 16 bytes a row and rank"
        yield LayoutNote("info", "largest_logit", f"{text}; {instead}")


def logprobs_note(layout: Layout, logprobs: int | None) -> Iterator[LayoutNote]:
    """What sampling.out has of a row, where ranks share the sampling."""
    if layout.attention.tp == 1:
        return
    if logprobs is None:
        text = "sampling.out is priced without log-probabilities; --logprobs N prices it with those of N other tokens"
    else:
        text = f"sampling.out has {sampled_columns(logprobs)} columns: log-probabilities of {logprobs} other tokens"
    yield LayoutNote("info", "logprobs", text)
