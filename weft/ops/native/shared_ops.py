"""Operations that the step library computes, each written once over the calls of `builder.py` and their sink."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from torch import Tensor

from weft.arch.config import MoEConfig
from weft.native.records import Epilogue
from weft.ops.attention import AttentionMeta, KVCache
from weft.ops.base import Heads, Latents, Ops
from weft.ops.native.builder import Builder
from weft.ops.native.packed import PackedSlots, PackedWeight
from weft.ops.reference.torch_ops import wide
from weft.ops.slot_tables import SlotTables
from weft.ops.weights import Weight


class LibraryOps(Ops):
    """A base to put before another one: what the library has no call for, or a weight that is not packed, is the other
    base's."""

    _builder: Builder

    @property
    def _other(self) -> Ops:
        return cast(Ops, super())

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._builder.rms_norm(x.flatten(0, -2), weight, eps).view(x.shape)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        if not isinstance(weight, PackedWeight):
            return self._other.linear(x, weight, bias)
        return self._builder.linear(x, weight, self._new(x, weight.shape[0]), bias)

    def gated(self, x: Tensor, gate_up: Weight, bias: Tensor | None) -> Tensor:
        if not isinstance(gate_up, PackedWeight):
            return self._other.gated(x, gate_up, bias)
        return self._builder.linear(x, gate_up, self._new(x, gate_up.shape[0] // 2), bias, Epilogue.SILU_MUL_OF)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        if not isinstance(weight, PackedWeight):
            return self._other.logits(x, weight)
        return self._builder.linear(x, weight, self._builder.sink.new(x, weight.shape[0], wide(x.dtype)))

    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        return self._builder.qkv(qkv, heads, meta, cache)

    def latent_queries(self, q: Tensor, latent: Tensor, way: Latents, meta: AttentionMeta, cache: KVCache) -> Tensor:
        if not isinstance(way.to_latent, PackedSlots):
            return self._other.latent_queries(q, latent, way, meta, cache)
        return self._builder.latent(q, latent, way, way.to_latent, meta, cache)

    def per_head(self, x: Tensor, weight: Weight, heads: int) -> Tensor:
        if not isinstance(weight, PackedSlots):
            return self._other.per_head(x, weight, heads)
        return self._builder.per_head(x, weight, self._new(x, weight.shape[0]), weight.shape[0] // heads)

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        """The experts as numbers of the weights' dtype."""
        choices = self._builder.route(logits, correction, moe)
        return choices[:, : moe.top_k], choices[:, moe.top_k :]

    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        if isinstance(gate_up, PackedSlots) and isinstance(down, PackedSlots):
            return gate_up, down
        return self._other.expert_weights(gate_up, down, slots)

    def routed(
        self, x: Tensor, experts: Tensor, weights: Tensor, tables: SlotTables, gate_up: Weight, down: Weight
    ) -> Tensor:
        if not isinstance(gate_up, PackedSlots) or not isinstance(down, PackedSlots):
            return self._other.routed(x, experts, weights, tables, gate_up, down)
        choices, k = self._choices(experts, weights), experts.shape[1]
        placed = self._builder.place(choices, k, len(gate_up.slots), tables)
        answers = self._builder.answers(x, x.shape[1], placed, gate_up, down, x.dtype)
        out: Tensor = self._builder.sink.new(choices, down.slots[0].shape[0], x.dtype)
        self._builder.combine(answers, placed.places, placed.weights, out, k)
        return out

    @abstractmethod
    def _choices(self, experts: Tensor, weights: Tensor) -> Tensor:
        """[N, 2 k]: choices as the library has them, of what `route` gave."""

    def _new(self, x: Tensor, columns: int) -> Tensor:
        """Rows for a result in x's dtype."""
        found: Tensor = self._builder.sink.new(x, columns, x.dtype)
        return found
