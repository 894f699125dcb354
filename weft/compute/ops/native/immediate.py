"""Runs each operation of the step library at once, on tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from weft.compute.native.records import InstructionRecord, StepRecord
from weft.compute.native.step_library import Pool
from weft.compute.ops.attention import AttentionMeta
from weft.compute.ops.native.builder import Builder
from weft.compute.ops.native.calls import Call, fill
from weft.compute.ops.native.packed import PackedSlots, PackedWeight, operand
from weft.compute.ops.operations.attention import ATTENDING, HEAD_DIM, WORK_CHUNKS, WORKSPACE, point_at_cache

FEWEST_POSITIONS = 4096
"""Of the first workspace of attention; longer contexts double it."""


class Immediate:
    """A sink. `exact`: results on the exact model's grid (see `exact_ops`)."""

    def __init__(self, pool: Pool, exact: bool = False) -> None:
        self.pool, self._exact = pool, exact
        self._nothing = StepRecord()
        self._workspaces: dict[int, tuple[Tensor, int]] = {}

    def new(self, like: Tensor, columns: int, dtype: torch.dtype, fold: int = 1) -> Tensor:
        return torch.empty(len(like) * fold, columns, dtype=dtype)

    def beside(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat((left.to(right.dtype), right), 1)

    def emit(self, call: Call) -> None:
        record, references = InstructionRecord(op=call.op, exact=self._exact), _References()
        for index, rows in enumerate(call.inputs):
            record.inputs[index] = operand(references.rows(rows))
        record.out = operand(call.out)
        fill(record, call, references.address)
        for index, rows in call.buffers.items():
            record.p[index] = rows.data_ptr()
        if call.cache is not None:
            point_at_cache(record, call.cache)
        if call.op in ATTENDING and call.meta is not None:
            workspace, record.n[WORK_CHUNKS] = self._workspace(call.numbers[HEAD_DIM], call.meta)
            record.p[WORKSPACE] = workspace.data_ptr()
        step = self._nothing if call.meta is None else references.step(call.meta)
        step.rows[0] = len(call.out)
        self.pool.run_one(record, step)

    def _workspace(self, dim: int, meta: AttentionMeta) -> tuple[Tensor, int]:
        """Grows with the longest context that was seen."""
        longest = int(meta.positions.max()) + 1 if len(meta.positions) else 1
        nbytes, chunks = self.pool.attention_workspace(max(FEWEST_POSITIONS, 1 << (longest - 1).bit_length()), dim)
        found = self._workspaces.get(dim)
        if found is None or found[1] < chunks:
            found = self._workspaces[dim] = torch.zeros(nbytes, dtype=torch.uint8), chunks
        return found


class _References:
    """What a record points to, which must live until the call is done."""

    def __init__(self) -> None:
        self._alive: list[object] = []

    def rows(self, x: Tensor) -> Tensor:
        """Rows whose columns are neighbours; those of a slice may stay apart from each other."""
        found = x if x.stride(1) == 1 else x.contiguous()
        self._alive.append(found)
        return found

    def address(self, tensor: object) -> int | None:
        """Of a weight, or of a tensor that is made contiguous."""
        if isinstance(tensor, PackedWeight):
            return tensor.address
        if isinstance(tensor, PackedSlots):
            addresses = tensor.addresses()
            self._alive.append(addresses)
            return ctypes.addressof(addresses)
        if not isinstance(tensor, Tensor):
            return None
        self._alive.append(found := tensor.contiguous())
        return found.data_ptr()

    def step(self, meta: AttentionMeta) -> StepRecord:
        """The step's record of rows that have keys."""
        step, ends = StepRecord(), torch.tensor(meta.row_ends, dtype=torch.int32)
        self._alive.append(ends)
        step.positions, step.slots = meta.positions.data_ptr(), meta.slots.data_ptr()
        step.group_positions = step.positions
        step.run_of_row, step.block_tables = meta.run_of_row.data_ptr(), meta.block_tables.data_ptr()
        step.row_ends, step.runs, step.table_width = ends.data_ptr(), len(ends), meta.block_tables.shape[1]
        return step


def run_now(pool: Pool, exact: bool = False) -> Builder:
    """Operations of the step library that run when they are called."""
    return Builder(Immediate(pool, exact), exact)
