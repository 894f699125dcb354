"""Traces a decoder's forward pass: operations that add themselves to a tape instead of computing.

The decoder is the one that also runs eagerly. Its tensors have no content: each stands for a view of a buffer, and the
tape says which operation reads and writes which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.native.operations import BIAS, Op
from weft.native.records import Epilogue
from weft.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.ops.base import Heads, Latents, Numerics, Ops
from weft.ops.native.builder import Builder
from weft.ops.native.packed import PackedSlots, PackedWeight
from weft.ops.reference.linear import Invariance
from weft.ops.slot_tables import SlotTables
from weft.ops.weights import Weight
from weft.program.ir import NotTraceableError
from weft.program.tape import Tape


class TracingAttention(AttentionBackend[AttentionMeta]):
    """Adds the step library's ATTENTION. The instruction reads where rows stand from a step's record."""

    name = "recording"

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def prepare(self, meta: AttentionMeta) -> AttentionMeta:
        return meta

    def forward(
        self, q: Tensor, cache: KVCache, prepared: AttentionMeta, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        if partial:
            raise _unknown("partial attention")
        return self._builder.attention(q.flatten(1), cache, spec, prepared)


class TracingOps(Ops):
    """Adds each operation to the tape. `tape.module`: the module that the last transition was for."""

    name = "recording"

    def __init__(self, numerics: Numerics, tape: Tape) -> None:
        self.numerics, self._tape = numerics, tape
        self._builder = Builder(tape, numerics.exact)
        self.attention_backend = TracingAttention(self._builder)

    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        if not isinstance(weight, PackedWeight | Tensor):
            raise NotTraceableError(f"{self._tape.module}: a table that is neither plain nor packed")
        return self._builder.embedding(ids, weight, lo, self.numerics.dtype)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._builder.rms_norm(x, weight, eps)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        return self._linear(x, weight, bias, Epilogue.STORE, self.numerics.dtype)

    def gated(self, x: Tensor, gate_up: Weight, bias: Tensor | None) -> Tensor:
        return self._linear(x, gate_up, bias, Epilogue.SILU_MUL_OF, self.numerics.dtype)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        self._tape.module = "lm_head"
        return self._linear(x, weight, None, Epilogue.STORE, self._wide)

    def _linear(self, x: Tensor, weight: Weight, bias: Tensor | None, epilogue: Epilogue, dtype: torch.dtype) -> Tensor:
        if not isinstance(weight, PackedWeight):
            raise NotTraceableError(f"{self._tape.module}: a matrix that is not packed")
        columns = weight.shape[0] // (2 if epilogue is Epilogue.SILU_MUL_OF else 1)
        return self._builder.linear(x, weight, self._tape.new(x, columns, dtype), bias, epilogue)

    def widen(self, x: Tensor) -> Tensor:
        if x.dtype == self._wide:
            return x
        out: Tensor = self._tape.new(x, x.shape[1], self._wide)
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

    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        return self._builder.qkv(qkv, heads, meta, cache)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.numerics.dtype, torch.float32)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        raise _unknown("rope of parts")

    def latent_queries(self, q: Tensor, latent: Tensor, way: Latents, meta: AttentionMeta, cache: KVCache) -> Tensor:
        return self._builder.latent(q, latent, way, self._packed(way.to_latent), meta, cache)

    def per_head(self, x: Tensor, weight: Weight, heads: int) -> Tensor:
        packed = self._packed(weight)
        out = self._tape.new(x, weight.shape[0], self.numerics.dtype)
        return self._builder.per_head(x, packed, out, weight.shape[0] // len(packed.slots))

    def _packed(self, weight: Weight) -> PackedSlots:
        if not isinstance(weight, PackedSlots):
            raise NotTraceableError(f"{self._tape.module}: a matrix that is not packed")
        return weight

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        choices = self._builder.route(logits, correction, moe)
        return choices[:, : moe.top_k], choices[:, moe.top_k :]

    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        if not isinstance(gate_up, PackedSlots) or not isinstance(down, PackedSlots):
            raise NotTraceableError("routed experts that are not packed")
        return gate_up, down

    def routed(
        self, x: Tensor, experts: Tensor, weights: Tensor, tables: SlotTables, gate_up: Weight, down: Weight
    ) -> Tensor:
        assert isinstance(gate_up, PackedSlots) and isinstance(down, PackedSlots)
        choices, k, dtype = self._tape.whole(experts), experts.shape[1], self.numerics.dtype
        placed = self._builder.place(choices, k, tables.here[1] - tables.here[0], tables)
        answers = self._builder.answers(x, x.shape[1], placed, gate_up, down, dtype)
        out: Tensor = self._tape.new(choices, down.slots[0].shape[0], dtype)
        self._builder.combine(answers, placed.places, placed.weights, out, k)
        return out

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        raise _unknown("answers apart from their sums")

    def weighted(self, answers: Tensor, weights: Tensor) -> Tensor:
        raise _unknown("answers apart from their sums")

    def rounded(self, x: Tensor) -> Tensor:
        if not self.numerics.exact:
            return x
        out: Tensor = self._tape.new(x, x.shape[1], self.numerics.dtype)
        self._tape.add(Op.ROUND, out, x)
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        raise _unknown("an activation by itself")

    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        return Invariance("recorded", True, 0, (), (), 0.0)

    def describe(self) -> str:
        return self.name


def _unknown(what: str) -> NotTraceableError:
    return NotTraceableError(f"no instruction for {what} yet")
