"""Instructions of the step library one at a time, on tensors: each call makes its record, runs it, gives a new tensor.

What `StepOps` is made of, and what conformance tests call. Knows no module and no program.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weft.native.records import (
    BIAS,
    BLOCK_SIZE,
    COS_SIN,
    EPILOGUE,
    EPS,
    HEAD_DIM,
    HELD,
    K_CACHE,
    K_NORM,
    KV_HEADS,
    KV_OF_HEAD,
    LO,
    NORM_WEIGHT,
    PACKED_CACHE,
    Q_HEADS,
    Q_NORM,
    ROPE_DIM,
    SCALE,
    V_CACHE,
    WEIGHT,
    WINDOW,
    WORK_CHUNKS,
    WORKSPACE,
    Epilogue,
    InstructionRecord,
    Op,
    StepRecord,
)
from weft.native.step_library import Pool
from weft.ops.attention import AttentionMeta, KVCache
from weft.ops.base import Heads
from weft.ops.native.packed import PackedWeight, operand
from weft.ops.reference.torch_ops import wide

FEWEST_POSITIONS = 4096
"""Of the first workspace of attention; longer contexts double it."""


class Single:
    """`exact`: results on the exact model's grid (see `exact_ops`), vectors in fp64."""

    def __init__(self, pool: Pool, exact: bool = False) -> None:
        self.pool, self._exact = pool, exact
        self._nothing = StepRecord()
        self._workspaces: dict[int, tuple[Tensor, int]] = {}

    def embedding(self, ids: Tensor, weight: PackedWeight, lo: int, dtype: torch.dtype) -> Tensor:
        """See `Ops.embedding`; rows in `dtype`."""
        out = torch.empty(ids.shape[0], weight.shape[1], dtype=dtype)
        record = self._record(Op.EMBED)
        record.n[LO], record.n[HELD], record.p[WEIGHT] = lo, weight.shape[0], weight.address
        return self._run(record, out, ids.contiguous()[:, None])

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops.rms_norm`."""
        out = torch.empty(x.shape, dtype=weight.dtype)
        record, size = self._record(Op.NORM), x.shape[-1]
        record.f[EPS] = eps
        self._run(record, out.view(-1, size), _rows(x.reshape(-1, size)), None, {NORM_WEIGHT: self._vector(weight)})
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """See `Ops.silu_mul`."""
        out = torch.empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=gate_up.dtype)
        return self._run(self._record(Op.SILU_MUL), out, _rows(gate_up))

    def linear(
        self,
        x: Tensor,
        weight: PackedWeight,
        out: Tensor,
        bias: Tensor | None = None,
        epilogue: Epilogue = Epilogue.STORE,
    ) -> Tensor:
        """out [N, columns] (op)= x [N, in] @ weight.T + bias, by `epilogue`. Returns `out`."""
        record = self._record(Op.LINEAR)
        record.n[EPILOGUE], record.p[WEIGHT] = epilogue, weight.address
        return self._run(record, out, _rows(x), None, {} if bias is None else {BIAS: bias.to(wide(bias.dtype))})

    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """See `Ops.qkv`."""
        out = torch.empty(qkv.shape[0], heads.q, heads.dim, dtype=qkv.dtype)
        record = self._record(Op.QKV)
        point_at_cache(record, cache)
        record.n[Q_HEADS], record.n[KV_HEADS], record.n[HEAD_DIM] = heads.q, heads.kv, heads.dim
        record.n[ROPE_DIM] = heads.cos_sin.shape[1]
        vectors = {COS_SIN: self._vector(heads.cos_sin)}
        if (norms := heads.norms) is not None:
            vectors |= {Q_NORM: self._vector(norms.q), K_NORM: self._vector(norms.k)}
            record.f[EPS] = norms.eps
        self._run(record, out.flatten(1), _rows(qkv), meta, vectors)
        return out

    def attention(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        """See `Ops.attention`."""
        rows, heads, dim = q.shape
        out = torch.empty(rows, heads * dim, dtype=q.dtype)
        record = self._record(Op.ATTENTION)
        point_at_cache(record, cache)
        record.n[Q_HEADS], record.n[KV_HEADS], record.n[HEAD_DIM] = heads, cache.k.shape[1], dim
        record.n[WINDOW], record.f[SCALE] = window, scale
        workspace, record.n[WORK_CHUNKS] = self._workspace(dim, meta)
        flat = q.reshape(rows, heads * dim).contiguous()
        return self._run(record, out, flat, meta, {KV_OF_HEAD: kv_of_head, WORKSPACE: workspace})

    def _vector(self, x: Tensor) -> Tensor:
        """In the type that results are computed in."""
        return x.double() if self._exact else x.to(wide(x.dtype))

    def _record(self, op: Op) -> InstructionRecord:
        return InstructionRecord(op=op, exact=self._exact)

    def _run(
        self,
        record: InstructionRecord,
        out: Tensor,
        x: Tensor,
        meta: AttentionMeta | None = None,
        vectors: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Rows x into rows of `out`. `vectors` by their index in the record; all live until the call is done."""
        record.inputs[0], record.out = operand(x), operand(out)
        kept = {index: vector.contiguous() for index, vector in (vectors or {}).items()}
        for index, vector in kept.items():
            record.p[index] = vector.data_ptr()
        step, ends = self._nothing, None
        if meta is not None:
            step, ends = StepRecord(), torch.tensor(meta.row_ends, dtype=torch.int32)
            step.positions, step.slots = meta.positions.data_ptr(), meta.slots.data_ptr()
            step.run_of_row, step.block_tables = meta.run_of_row.data_ptr(), meta.block_tables.data_ptr()
            step.row_ends, step.runs, step.table_width = ends.data_ptr(), len(ends), meta.block_tables.shape[1]
        step.rows[0] = out.shape[0]
        self.pool.run_one(record, step)
        return out

    def _workspace(self, dim: int, meta: AttentionMeta) -> tuple[Tensor, int]:
        """Grows with the longest context that was seen."""
        longest = int(meta.positions.max()) + 1 if len(meta.positions) else 1
        nbytes, chunks = self.pool.attention_workspace(max(FEWEST_POSITIONS, 1 << (longest - 1).bit_length()), dim)
        found = self._workspaces.get(dim)
        if found is None or found[1] < chunks:
            found = self._workspaces[dim] = torch.zeros(nbytes, dtype=torch.uint8), chunks
        return found


def _rows(x: Tensor) -> Tensor:
    """Rows whose columns are neighbours; those of a slice may stay apart from each other."""
    return x if x.stride(1) == 1 else x.contiguous()


def point_at_cache(record: InstructionRecord, cache: KVCache) -> None:
    """Where its pages lie, and how."""
    record.p[K_CACHE], record.p[V_CACHE] = cache.k.data_ptr(), cache.v.data_ptr()
    record.cache_stride[0], record.cache_stride[1] = cache.k.stride(0), cache.k.stride(1)
    record.n[BLOCK_SIZE], record.n[PACKED_CACHE] = cache.k.shape[2], int(cache.packed)
