"""Operations of a CPU with the step library: packed weights, and a cache that its attention reads. One call each.

The eager twin of a step program: the same kernels, one after the other, over tensors made for each result. What the
library has no kernel for (latent attention, routed experts) falls to the operations that `NativeOps` has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from weft.native import isa
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
    OperandRecord,
    StepRecord,
)
from weft.native.step_library import Pool
from weft.ops.base import AttentionMeta, HeadCounts, HeadNorms, KVCache, Numerics
from weft.ops.linear import Invariance
from weft.ops.native_kernels import Kernels
from weft.ops.native_ops import NativeOps
from weft.ops.packed import BLOCKS, DTYPES, Arena, PackedWeight, Packing
from weft.ops.quantized import kind_for
from weft.ops.torch_ops import wide
from weft.ops.weights import FileBlocks, Use, Weight

TOKENS = 16
"""Blocks of a packed cache hold a multiple of so many tokens."""


def packs_cache(dtype: torch.dtype, block_size: int, dim: int) -> bool:
    """Whether attention reads a packed cache of these sizes; else it reads a plain one."""
    return dtype == torch.bfloat16 and block_size % TOKENS == 0 and dim % 2 == 0


class StepOps(NativeOps):
    """Made by `make_ops` where the step library is there; `pool` runs its kernels."""

    name = "step"

    def __init__(
        self, numerics: Numerics, device: torch.device, kernels: Kernels, pool: Pool, packing: Packing
    ) -> None:
        super().__init__(numerics, device, kernels)
        self.pool, self._packing, self._arena = pool, packing, Arena()
        self._empty = StepRecord()
        self._workspaces: dict[int, tuple[Tensor, int]] = {}

    def prepare(self, weight: Tensor, use: Use) -> Weight:
        kind = kind_for(self.numerics.quantization, use)
        return self._packing.pack(weight, kind, interleaved=use is Use.GATED, arena=self._arena)

    def takes_blocks(self, format: str, use: Use) -> bool:
        return self.numerics.quantization == "gguf" and format in BLOCKS

    def prepare_blocks(self, blocks: FileBlocks, use: Use) -> Weight:
        return self._packing.pack_blocks(
            blocks.raw, blocks.format, blocks.depth, interleaved=use is Use.GATED, arena=self._arena
        )

    def embedding(self, ids: Tensor, weight: Weight, lo: int) -> Tensor:
        if not isinstance(weight, PackedWeight):
            return super().embedding(ids, weight, lo)
        out = torch.empty(ids.shape[0], weight.shape[1], dtype=self.numerics.dtype)
        record = self._record(Op.EMBED, out)
        given = ids.contiguous()
        record.inputs[0] = OperandRecord(given.data_ptr(), 1, 3, 1)
        record.n[LO], record.n[HELD], record.p[WEIGHT] = lo, weight.shape[0], weight.address
        return self._run(record, out)

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        if not isinstance(weight, PackedWeight):
            return super().linear(x, weight, bias)
        return self._product(x, weight, bias, Epilogue.STORE, weight.shape[0], x.dtype)

    def gated(self, x: Tensor, gate_up: Weight, bias: Tensor | None) -> Tensor:
        if not isinstance(gate_up, PackedWeight):
            return super().gated(x, gate_up, bias)
        return self._product(x, gate_up, bias, Epilogue.SILU_MUL_OF, gate_up.shape[0] // 2, x.dtype)

    def logits(self, x: Tensor, weight: Weight) -> Tensor:
        if not isinstance(weight, PackedWeight):
            return super().logits(x, weight)
        return self._product(x, weight, None, Epilogue.STORE, weight.shape[0], wide(x.dtype))

    def qkv(
        self,
        qkv: Tensor,
        heads: HeadCounts,
        norms: HeadNorms | None,
        cos_sin: Tensor,
        meta: AttentionMeta,
        cache: KVCache,
    ) -> Tensor:
        if not cache.packed:
            return super().qkv(qkv, heads, norms, cos_sin, meta, cache)
        out = torch.empty(qkv.shape[0], heads.q, heads.dim, dtype=qkv.dtype)
        record = self._record(Op.QKV, out.view(qkv.shape[0], heads.q * heads.dim), qkv.contiguous())
        self._point_at_cache(record, cache)
        # the rotation of a head is its own, so any dealing of heads over threads will do
        owners = torch.arange(heads.q, dtype=torch.int32) * heads.kv // heads.q
        record.n[Q_HEADS], record.n[KV_HEADS], record.n[HEAD_DIM] = heads.q, heads.kv, heads.dim
        angles, record.n[ROPE_DIM] = cos_sin.to(wide(qkv.dtype)).contiguous(), cos_sin.shape[1]
        vectors = {KV_OF_HEAD: owners, COS_SIN: angles}
        if norms is not None:
            vectors |= {Q_NORM: norms.q.to(wide(qkv.dtype)), K_NORM: norms.k.to(wide(qkv.dtype))}
            record.f[EPS] = norms.eps
        return self._run(record, out, meta, vectors)

    def attention(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        if not cache.packed:
            return super().attention(q, cache, kv_of_head, scale, meta, window)
        rows, heads, dim = q.shape
        out = torch.empty(rows, heads * dim, dtype=q.dtype)
        record = self._record(Op.ATTENTION, out, q.reshape(rows, heads * dim).contiguous())
        self._point_at_cache(record, cache)
        record.n[Q_HEADS], record.n[KV_HEADS], record.n[HEAD_DIM] = heads, cache.k.shape[1], dim
        record.n[WINDOW], record.f[SCALE] = window, scale
        workspace, record.n[WORK_CHUNKS] = self._workspace(dim, meta)
        return self._run(record, out, meta, {KV_OF_HEAD: kv_of_head, WORKSPACE: workspace})

    def check_batch_invariance(self, weights: Iterable[Tensor], seconds: float = 0.5) -> Invariance:
        """Of what is not packed; packed products have one order of summation by construction."""
        plain = list(weights)
        if not plain:
            return Invariance("packed, one order of summation", True, 0, (), (), 0.0)
        return super().check_batch_invariance(plain, seconds)

    def describe(self) -> str:
        threads = f"{self.pool.threads} thread{'s' if self.pool.threads > 1 else ''}"
        kept = "packed" if self.numerics.quantization == "none" else f"packed as {self.numerics.quantization}"
        return f"step library ({isa.chosen()}) on {self.device}, {threads}; weights {kept}, others {self.form.name}"

    def _product(
        self, x: Tensor, weight: PackedWeight, bias: Tensor | None, epilogue: Epilogue, columns: int, dtype: torch.dtype
    ) -> Tensor:
        out = torch.empty(x.shape[0], columns, dtype=dtype)
        record = self._record(Op.LINEAR, out, x if x.stride(1) == 1 else x.contiguous())
        record.n[EPILOGUE], record.p[WEIGHT] = epilogue, weight.address
        return self._run(record, out, None, {} if bias is None else {BIAS: bias.to(wide(bias.dtype))})

    def _record(self, op: Op, out: Tensor, x: Tensor | None = None) -> InstructionRecord:
        record = InstructionRecord(op=op)
        record.out = _operand(out)
        if x is not None:
            record.inputs[0] = _operand(x)
        return record

    def _run(
        self,
        record: InstructionRecord,
        out: Tensor,
        meta: AttentionMeta | None = None,
        vectors: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """`vectors` by their index in the record; they live until the call is done."""
        kept = {index: vector.contiguous() for index, vector in (vectors or {}).items()}
        for index, vector in kept.items():
            record.p[index] = vector.data_ptr()
        step = self._empty if meta is None else StepRecord()
        ends = None
        if meta is not None:
            ends = torch.tensor(meta.row_ends, dtype=torch.int32)
            step.positions, step.slots = meta.positions.data_ptr(), meta.slots.data_ptr()
            step.run_of_row, step.block_tables = meta.run_of_row.data_ptr(), meta.block_tables.data_ptr()
            step.row_ends, step.runs, step.table_width = ends.data_ptr(), len(ends), meta.block_tables.shape[1]
        step.rows[0] = out.shape[0]
        self.pool.run_one(record, step)
        return out

    def _point_at_cache(self, record: InstructionRecord, cache: KVCache) -> None:
        record.p[K_CACHE], record.p[V_CACHE] = cache.k.data_ptr(), cache.v.data_ptr()
        record.cache_stride[0], record.cache_stride[1] = cache.k.stride(0), cache.k.stride(1)
        record.n[BLOCK_SIZE], record.n[PACKED_CACHE] = cache.k.shape[2], 1

    def _workspace(self, dim: int, meta: AttentionMeta) -> tuple[Tensor, int]:
        """Grows with the longest context that was seen."""
        positions = 1 << max(12, int(meta.positions.max()).bit_length() if len(meta.positions) else 0)
        found = self._workspaces.get(dim)
        nbytes, chunks = self.pool.attention_workspace(positions, dim)
        if found is None or found[1] < chunks:
            found = self._workspaces[dim] = torch.zeros(nbytes, dtype=torch.uint8), chunks
        return found


def _operand(x: Tensor) -> OperandRecord:
    return OperandRecord(x.data_ptr(), x.stride(0), DTYPES[x.dtype], x.shape[1])
