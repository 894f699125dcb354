"""Traces a decoder's forward pass: operations that add themselves to a tape instead of computing.

The decoder is the one that also runs eagerly. Its tensors have no content: each stands for a view of a buffer, and the
tape says which operation reads and writes which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import Numerics
from weft.compute.ops.native.builder import Builder
from weft.compute.ops.native.library_ops import LibraryOps
from weft.compute.ops.operations.declare import NoCallError
from weft.compute.ops.operations.dense import BIAS
from weft.compute.ops.operations.table import Op
from weft.compute.ops.reference.linear import Invariance
from weft.compute.ops.reference.torch_ops import wide
from weft.compute.ops.weights import Weight
from weft.model.program.ir import NotTraceableError
from weft.model.program.tape import Tape


class TracingAttention(AttentionBackend[AttentionMeta]):
    """Adds the step library's ATTENTION, or PARTIAL and MERGE. An instruction reads where rows stand from a step's
    record."""

    name = "recording"

    def __init__(self, builder: Builder, tape: Tape, dtype: torch.dtype) -> None:
        """`dtype`: of activations."""
        self._builder, self._tape, self._dtype = builder, tape, dtype

    def prepare(self, meta: AttentionMeta) -> AttentionMeta:
        return meta

    def forward(
        self, q: Tensor, cache: KVCache, prepared: AttentionMeta, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        attend = self._builder.partial_attention if partial else self._builder.attention
        return attend(q.flatten(1), cache, spec, prepared)

    def merge(self, parts: Sequence[Tensor], heads: int) -> Tensor:
        """In the dtype of activations, as `Ops.merged` gives it."""
        whole = self._tape.whole(parts[0])
        out = self._tape.new(whole, parts[0].shape[1] - 2 * heads, self._dtype)
        return self._builder.merged(whole, out, len(parts), heads)


class TracingOps(LibraryOps):
    """Adds each operation to the tape. `tape.module`: the module that the last transition was for."""

    name = "recording"

    def __init__(self, numerics: Numerics, tape: Tape) -> None:
        self.numerics, self._tape = numerics, tape
        self.calls = Builder(tape, numerics.exact)
        self.attention_backend = TracingAttention(self.calls, tape, numerics.dtype)

    def no_call(self, name: str, why: NoCallError) -> Callable[..., Any]:
        raise NotTraceableError(f"{self._tape.module}: {why}" if self._tape.module else str(why))

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        self._tape.module = "lm_head"
        return super().logits(x, weight)

    def widen(self, x: Tensor) -> Tensor:
        dtype = wide(self.numerics.dtype)
        if x.dtype == dtype:
            return x
        out: Tensor = self._tape.new(x, x.shape[1], dtype)
        self._tape.add(Op.COPY, out, x)
        return out

    def add(self, x: Tensor, h: Tensor) -> Tensor:
        before = self._tape.view(h)
        out = self._tape.over(x)
        self._tape.add(Op.ADD, out, before)
        return out

    def add_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        out = self._tape.over(x)
        self._tape.add(Op.ADD_BIAS, out).tensors[BIAS] = bias
        return out

    def select(self, xs: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        views = [self._tape.view(x) for x in xs]
        left = tuple(self._tape.left(x, "sampled") for x in xs)
        self._tape.add(Op.SELECT, left[0], *views)
        return left

    def rounded(self, x: Tensor) -> Tensor:
        if not self.numerics.exact:
            return x
        out: Tensor = self._tape.new(x, x.shape[1], self.numerics.dtype)
        self._tape.add(Op.ROUND, out, x)
        return out

    def expert_answers(self, *_: Any, **__: Any) -> Any:
        raise _unknown("answers apart from their sums")

    weighted = expert_answers

    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        return Invariance("recorded", True, 0, (), (), 0.0)

    def describe(self) -> str:
        return self.name


def _unknown(what: str) -> NotTraceableError:
    return NotTraceableError(f"no instruction for {what} yet")
