"""Operations around attention. Shapes: N rows, A query heads on this rank, K KV heads on this rank, D head dim."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.compute.native.records import Epilogue, InstructionRecord
from weft.compute.ops.attention import AttentionBackend, AttentionMeta, AttentionSpec, KVCache
from weft.compute.ops.base import Heads, Latents, Numerics
from weft.compute.ops.native.calls import Call, Handle, Sink
from weft.compute.ops.native.packed import PackedSlots, packed_slots
from weft.compute.ops.operations.declare import N, OpCode, P, numbers, operation, pointers
from weft.compute.ops.operations.dense import EPILOGUE, EPS, SCALE
from weft.compute.ops.weights import Weight

Q_HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, WINDOW, ROPE_DIM, PACKED_CACHE, WORK_CHUNKS = numbers(8)
"""Of QKV, ATTENTION and PARTIAL; `WORK_CHUNKS`: how many chunks of a long context the workspace has room for."""
IN_STEP, OUT_STEP = N(1), N(3)
"""Of PER_HEAD: columns from head to head."""
SECTIONS, TABLE, OWNER, OWNERS = numbers(12, 8)
"""`TABLE`, of ATTENTION, PARTIAL and DISPATCH: whose rows, 0 all, 1 the sampled ones. `OWNER`, of PARTIAL: which keys
this rank has, as in `KeyShare`. `OWNERS`, of PARTIAL and MERGE: how many ranks have some. `SECTIONS`, of PARTIAL: how
many ranges of heads lie one after the other in out; 0: rows lie whole."""
K_CACHE, V_CACHE, KV_OF_HEAD, COS_SIN, Q_NORM, K_NORM = pointers(6)
"""Of QKV, ATTENTION and PARTIAL."""
Q_SCALE = P(6)
"""Of QKV: by position."""
WORKSPACE = P(3)
"""Of ATTENTION and PARTIAL: room for parts of long contexts."""
HEAD_STARTS = P(4)
"""Of PARTIAL: [SECTIONS + 1], the first head of each section, and the end."""
WEIGHTS = P(0)
"""Of PER_HEAD and GROUPED: addresses of the weights."""


class AttentionCodes:
    """Their numbers."""

    QKV = OpCode(
        4,
        "q/k norm, rope and cache write of packed rows [q heads | k heads | v heads]; out = rotated, scaled q",
        "kernels/attention/rope.h:qkv",
        (COS_SIN, Q_NORM, K_NORM, Q_SCALE),
        on_grid=True,
    )
    ATTENTION = OpCode(
        5,
        "out[r] = attention of q in in0[r] over the cache",
        "kernels/attention/attention.h:attention_of_table",
    )
    LATENT = OpCode(
        17,
        "latents of in1 go to the cache; out = the rotated parts of queries in in0; see latent.h",
        "kernels/attention/latent.h:latent",
        (COS_SIN, K_NORM),
        on_grid=True,
    )
    PER_HEAD = OpCode(18, "each head's columns of in0 times its own weight", "kernels/gemm/gemm_grouped.h:per_head")
    PARTIAL = OpCode(
        20,
        "out[r] = partial output of q in in0[r] over the keys that this rank has",
        "kernels/attention/attention.h:partial_attention",
    )
    MERGE = OpCode(
        21,
        "out[r] = partial outputs of all owners, which lie one owner after the other in in0, added up and divided",
        "kernels/attention/merge.h:merge",
    )


ATTENDING = (AttentionCodes.ATTENTION, AttentionCodes.PARTIAL)
"""What reads the keys of whole contexts."""


class AttentionCalls:
    """Calls that several operations make. `exact`: of the exact model."""

    sink: Sink
    exact: bool

    def attention(self, q: Tensor, cache: KVCache, spec: AttentionSpec, meta: AttentionMeta) -> Tensor:
        """See `AttentionBackend.forward`; q [N, A * D]."""
        return self._attention(AttentionCodes.ATTENTION, q, self.sink.new(q, q.shape[1], q.dtype), cache, spec, meta)

    def partial_attention(self, q: Tensor, cache: KVCache, spec: AttentionSpec, meta: AttentionMeta) -> Tensor:
        """The same, the partial output [N, A * (D + 2)] over `meta.share`."""
        columns = q.shape[1] + 2 * len(spec.kv_of_head)
        out = self.sink.new(q, columns, torch.float64 if self.exact else torch.promote_types(q.dtype, torch.float32))
        return self._attention(AttentionCodes.PARTIAL, q, out, cache, spec, meta)

    def _attention(
        self, op: OpCode, q: Tensor, out: Handle, cache: KVCache, spec: AttentionSpec, meta: AttentionMeta
    ) -> Tensor:
        heads = len(spec.kv_of_head)
        sizes = {Q_HEADS: heads, KV_HEADS: cache.k.shape[1], HEAD_DIM: q.shape[1] // heads, WINDOW: spec.window}
        if meta.share is not None:
            sizes |= {OWNER: meta.share.owner, OWNERS: meta.share.owners}
        floats, tensors = {SCALE: spec.scale}, {KV_OF_HEAD: spec.kv_of_head}
        self.sink.emit(Call(op, out, (q,), sizes, floats, tensors, cache=cache, meta=meta))
        found: Tensor = out
        return found

    def merged(self, parts: Tensor, out: Tensor, owners: int, heads: int) -> Tensor:
        """Partial outputs [owners, N, A * (D + 2)] of other keys each, in whatever shape; see
        `AttentionBackend.merge`. Returns `out` [N, A * D]."""
        sizes = {Q_HEADS: heads, HEAD_DIM: out.shape[1] // heads, OWNERS: owners}
        self.sink.emit(Call(AttentionCodes.MERGE, out, (parts,), sizes))
        return out

    def latent(
        self, q: Tensor, latent: Tensor, way: Latents, to_latent: PackedSlots, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        """See `Ops.latent_queries`."""
        heads, dim = len(to_latent.slots), latent.shape[1]
        out: Tensor = self.sink.new(q, heads * dim, q.dtype)
        sizes = {Q_HEADS: heads, HEAD_DIM: dim, ROPE_DIM: way.cos_sin.shape[1]}
        tensors = {COS_SIN: way.cos_sin, K_NORM: way.norm}
        inputs, floats = (q, latent), {EPS: way.eps}
        self.sink.emit(Call(AttentionCodes.LATENT, out, inputs, sizes, floats, tensors, cache=cache, meta=meta))
        return self.per_head(q, to_latent, out, dim).view(len(out), heads, dim)

    def per_head(self, x: Tensor, weight: PackedSlots, out: Tensor, step: int) -> Tensor:
        """See `Ops.per_head`; heads stand `step` columns apart in `out`, which it returns."""
        heads = len(weight.slots)
        sizes = {Q_HEADS: heads, IN_STEP: x.shape[1] // heads, OUT_STEP: step, EPILOGUE: Epilogue.STORE}
        self.sink.emit(Call(AttentionCodes.PER_HEAD, out, (x,), sizes, {}, {WEIGHTS: weight}))
        return out


class AttentionOps(ABC):
    """What layers call."""

    numerics: Numerics
    attention_backend: AttentionBackend[Any]
    calls: AttentionCalls

    @operation()
    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """Splits packed rows [N, (A + 2 K) * D] (q, k, v), norms q and k where there are norms, rotates them by
        `heads.rope`, writes k and v to the cache at meta.slots, returns the rotated and scaled q [N, A, D]."""
        out: Tensor = self.calls.sink.new(qkv, heads.q * heads.dim, qkv.dtype)
        cos_sin, q_scale = heads.rope.cos_sin, heads.rope.q_scale
        sizes = {Q_HEADS: heads.q, KV_HEADS: heads.kv, HEAD_DIM: heads.dim, ROPE_DIM: cos_sin.shape[1]}
        tables = {COS_SIN: cos_sin} if q_scale is None else {COS_SIN: cos_sin, Q_SCALE: q_scale}
        call = Call(AttentionCodes.QKV, out, (qkv,), sizes, {}, tables, cache=cache, meta=meta)
        if (norms := heads.norms) is not None:
            call.tensors = {**call.tensors, Q_NORM: norms.q, K_NORM: norms.k}
            call.floats = {EPS: norms.eps}
        self.calls.sink.emit(call)
        return out.view(len(out), heads.q, heads.dim)

    def attention(self, q: Tensor, cache: KVCache, prepared: Any, spec: AttentionSpec) -> Tensor:
        """Causal attention of q [N, A, D] over cached keys: [N, A * D]. `prepared`: what the backend made of these
        rows (`AttentionBackend.prepare`)."""
        return self.attention_backend.forward(q, cache, prepared, spec)

    def partial_attention(self, q: Tensor, cache: KVCache, prepared: Any, spec: AttentionSpec) -> Tensor:
        """Of q [N, A, D] over the keys that this rank's cache has of each request: the partial output
        [N, A * (D + 2)] (`weft.compute.ops.attention`)."""
        return self.attention_backend.forward(q, cache, prepared, spec, partial=True)

    def merged(self, parts: Sequence[Tensor], heads: int) -> Tensor:
        """Partial outputs of the same rows over different keys, added up in the given order and then divided:
        [N, A * D] as activations."""
        return self.attention_backend.merge(parts, heads).to(self.numerics.dtype)

    @operation()
    def per_head(self, x: Tensor, weight: Weight, heads: int) -> Tensor:
        """x [N, A * D] by weight [A * M, K], a matrix for each head: the first K of a head's D columns times its own,
        [N, A * M]; bits of a row as in `linear`."""
        matrices, columns = packed_slots(weight), weight.shape[0]
        return self.calls.per_head(x, matrices, self.calls.sink.new(x, columns, x.dtype), columns // heads)

    @operation()
    def latent_queries(self, q: Tensor, latent: Tensor, way: Latents, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """MLA: of latent [N, L + R] the first L are normed and the last R rotated, and it goes to the cache
        ([B + 1, 1, S, L + R], k and v one tensor); q [N, A * (P + R)] is carried to the latent's space and rotated:
        [N, A, L + R]."""
        return self.calls.latent(q, latent, way, packed_slots(way.to_latent), meta, cache)


def point_at_cache(record: InstructionRecord, cache: KVCache) -> None:
    """The addresses and strides of its pages, and their order."""
    record.p[K_CACHE], record.p[V_CACHE] = cache.k.data_ptr(), cache.v.data_ptr()
    record.cache_stride[0], record.cache_stride[1] = cache.k.stride(0), cache.k.stride(1)
    record.n[BLOCK_SIZE], record.n[PACKED_CACHE] = cache.k.shape[2], int(cache.packed)
