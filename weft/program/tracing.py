"""Traces a decoder's forward pass: operations that add themselves to a tape instead of computing.

The decoder is the one that also runs eagerly. Its tensors have no content: each stands for a view of a buffer, and the
tape says which operation reads and writes which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.native.records import (
    BIAS,
    BLOCK_SIZE,
    COS_SIN,
    EPILOGUE,
    EPS,
    HEAD_DIM,
    HELD,
    K_NORM,
    KV_HEADS,
    KV_OF_HEAD,
    LO,
    NORM_WEIGHT,
    Q_HEADS,
    Q_NORM,
    ROPE_DIM,
    SCALE,
    TABLE,
    WEIGHT,
    WINDOW,
    Epilogue,
    Op,
)
from weft.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.ops.base import Heads, Latents, Numerics, Ops
from weft.ops.native.packed import PackedSlots, PackedWeight
from weft.ops.reference.linear import Invariance
from weft.ops.slot_tables import SlotTables
from weft.ops.weights import Weight
from weft.program.ir import TABLES, NotTraceableError
from weft.program.latent import trace_latent, trace_per_head
from weft.program.routed import trace_choices, trace_routed
from weft.program.tape import ROWS, Tape


class TracingAttention(AttentionBackend[None]):
    """Adds the step library's ATTENTION. The instruction reads where rows stand from a step's record."""

    name = "recording"

    def __init__(self, tape: Tape, layer_of: Mapping[int, int]) -> None:
        self._tape, self._layer_of = tape, layer_of

    def prepare(self, meta: AttentionMeta) -> None:
        return None

    def forward(
        self, q: Tensor, cache: KVCache, prepared: None, spec: AttentionSpec, *, partial: bool = False
    ) -> Tensor:
        if partial:
            raise _unknown("partial attention")
        heads, dim = q.shape[1:]
        out = self._tape.new(self._tape.view(q).buffer.rows, heads * dim, q.dtype)
        found = self._tape.add(Op.ATTENTION, out, q)
        found.cache = self._layer_of[id(cache)]
        found.numbers |= {Q_HEADS: heads, KV_HEADS: cache.k.shape[1], HEAD_DIM: dim, WINDOW: spec.window}
        found.numbers |= {BLOCK_SIZE: cache.k.shape[2], TABLE: TABLES.index(found.out.buffer.rows.table)}
        found.floats[SCALE] = spec.scale
        found.tensors[KV_OF_HEAD] = spec.kv_of_head
        return out


class TracingOps(Ops):
    """Adds each operation to the tape. `tape.module`: the module that the last transition was for."""

    name = "recording"

    def __init__(self, numerics: Numerics, tape: Tape, layer_of: Mapping[int, int]) -> None:
        """`layer_of`: the layer of a cache, by the address of its record."""
        self.numerics, self._tape, self._layer_of = numerics, tape, layer_of
        self.attention_backend = TracingAttention(tape, layer_of)

    def _new(self, like: Tensor, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        return self._tape.new(self._tape.view(like).buffer.rows, columns, dtype or self.numerics.dtype)

    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        out = self._new(ids, weight.shape[1])
        found = self._tape.add(Op.EMBED, out, ids)
        found.numbers |= {LO: lo, HELD: weight.shape[0]}
        found.tensors[WEIGHT] = weight
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = self._new(x, x.shape[-1], weight.dtype)
        found = self._tape.add(Op.NORM, out, x)
        found.floats[EPS] = eps
        found.tensors[NORM_WEIGHT] = weight
        return out

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
        out = self._new(x, columns, dtype)
        found = self._tape.add(Op.LINEAR, out, x)
        found.numbers[EPILOGUE] = epilogue
        found.tensors |= {WEIGHT: weight, BIAS: bias}
        return out

    def widen(self, x: Tensor) -> Tensor:
        if x.dtype == self._wide:
            return x
        out = self._new(x, x.shape[1], self._wide)
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
        out = self._new(qkv, heads.q * heads.dim)
        found = self._tape.add(Op.QKV, out, qkv)
        found.cache = self._layer_of[id(cache)]
        found.numbers |= {Q_HEADS: heads.q, KV_HEADS: heads.kv, HEAD_DIM: heads.dim, ROPE_DIM: heads.cos_sin.shape[1]}
        found.tensors[COS_SIN] = heads.cos_sin
        if (norms := heads.norms) is not None:
            found.tensors |= {Q_NORM: norms.q, K_NORM: norms.k}
            found.floats[EPS] = norms.eps
        return out.view(ROWS, heads.q, heads.dim)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.numerics.dtype, torch.float32)

    def rope_and_cache(
        self, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        raise _unknown("rope of parts")

    def latent_queries(self, q: Tensor, latent: Tensor, way: Latents, meta: AttentionMeta, cache: KVCache) -> Tensor:
        found = trace_latent(self._tape, q, latent, way, self._layer_of[id(cache)])
        return found.view(ROWS, -1, cache.k.shape[3])

    def per_head(self, x: Tensor, weight: Weight, heads: int) -> Tensor:
        return trace_per_head(self._tape, x, weight, self.numerics.dtype)

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        choices = trace_choices(self._tape, logits, correction, moe, self._wide)
        return choices[:, : moe.top_k], choices[:, moe.top_k :]

    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        if not isinstance(gate_up, PackedSlots) or not isinstance(down, PackedSlots):
            raise NotTraceableError("routed experts that are not packed")
        return gate_up, down

    def routed(
        self, x: Tensor, experts: Tensor, weights: Tensor, tables: SlotTables, gate_up: Weight, down: Weight
    ) -> Tensor:
        assert isinstance(gate_up, PackedSlots) and isinstance(down, PackedSlots)
        return trace_routed(self._tape, x, experts, tables, (gate_up, down), self.numerics)

    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        raise _unknown("answers apart from their sums")

    def weighted(self, answers: Tensor, weights: Tensor) -> Tensor:
        raise _unknown("answers apart from their sums")

    def rounded(self, x: Tensor) -> Tensor:
        if not self.numerics.exact:
            return x
        out = self._new(x, x.shape[1])
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
