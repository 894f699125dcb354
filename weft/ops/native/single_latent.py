"""Instructions of latent attention one at a time, on tensors. Knows which heads there are; no rank."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from weft.native.records import (
    COS_SIN,
    EPS,
    HEAD_DIM,
    IN_STEP,
    K_NORM,
    OUT_STEP,
    Q_HEADS,
    ROPE_DIM,
    WEIGHTS,
    Op,
)
from weft.ops.attention import AttentionMeta, KVCache
from weft.ops.base import Latents
from weft.ops.native.packed import PackedSlots, operand
from weft.ops.native.single import point_at_cache
from weft.ops.native.single_experts import SingleExperts


class SingleLatent(SingleExperts):
    """`SingleExperts` with what latent attention needs."""

    def latent(
        self, q: Tensor, latent: Tensor, way: Latents, to_latent: PackedSlots, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        """See `Ops.latent_queries`."""
        rows, heads, dim = q.shape[0], len(to_latent.slots), latent.shape[1]
        out = torch.empty(rows, heads * dim, dtype=q.dtype)
        record = self._record(Op.LATENT)
        point_at_cache(record, cache)
        record.n[Q_HEADS], record.n[HEAD_DIM], record.n[ROPE_DIM] = heads, dim, way.cos_sin.shape[1]
        record.f[EPS] = way.eps
        record.inputs[1] = operand(latent)
        vectors = {COS_SIN: self._vector(way.cos_sin), K_NORM: self._vector(way.norm)}
        self._run(record, out, q, meta, vectors)
        return self.per_head(q, to_latent, out, dim).view(rows, heads, dim)

    def per_head(self, x: Tensor, weight: PackedSlots, out: Tensor, step: int) -> Tensor:
        """See `Ops.per_head`; heads stand `step` columns apart in `out`, which it returns."""
        heads = len(weight.slots)
        record, addresses = self._record(Op.PER_HEAD), weight.addresses()
        record.n[Q_HEADS], record.n[IN_STEP], record.n[OUT_STEP] = heads, x.shape[1] // heads, step
        record.p[WEIGHTS] = ctypes.addressof(addresses)
        return self._run(record, out, x)
