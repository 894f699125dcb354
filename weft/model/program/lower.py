"""Lowering: from a recording with placed buffers to the records that C++ reads."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.comm.base import Group
from weft.compute.comm.redistribute import Area, Areas, Plan
from weft.compute.native.records import (
    MAX_ROW_REGISTERS,
    AreaRecord,
    Dtype,
    ExchangeRecord,
    InstructionRecord,
    OperandRecord,
)
from weft.compute.native.runtime_records import CommRecord
from weft.compute.native.step_library import Pool
from weft.compute.ops.attention import KVCache
from weft.compute.ops.native.calls import fill
from weft.compute.ops.native.large_pages import large_pages
from weft.compute.ops.native.packed import PackedSlots, PackedWeight
from weft.compute.ops.operations.attention import ATTENDING, HEAD_DIM, WORK_CHUNKS, WORKSPACE, point_at_cache
from weft.compute.ops.operations.dense import WEIGHT
from weft.compute.ops.operations.exchanges import EXCHANGE, GROUP
from weft.compute.ops.operations.table import Op
from weft.model.program.ir import TABLES, Instruction, NotTraceableError, Recording, Rows, Table, View
from weft.model.program.memory_planning import Places

_DTYPES = {
    torch.float32: Dtype.F32,
    torch.bfloat16: Dtype.BF16,
    torch.float64: Dtype.F64,
    torch.int64: Dtype.I64,
}
Rooms = Mapping[Table, int]
"""The most rows of one rank in a step."""


@dataclass(frozen=True, slots=True)
class End:
    """One rank's end of the shared region: what C++ calls, and for each group its number and the rank's place."""

    record: CommRecord
    groups: Mapping[Group, tuple[int, int]]


class Lowering:
    """Makes the records of one program; `keeps` is what they point to."""

    def __init__(
        self,
        recording: Recording,
        caches: Sequence[KVCache],
        pool: Pool,
        positions: int,
        end: End | None,
        exact: bool,
    ) -> None:
        """`positions`: of the longest context."""
        self._code, self._caches, self._end, self._exact = recording.instructions, caches, end, exact
        dims = {each.numbers[HEAD_DIM] for each in self._code if each.op in ATTENDING}
        nbytes, self._chunks = pool.attention_workspace(positions, max(dims, default=1))
        self._workspace = large_pages(nbytes)
        self.keeps: list[object] = list(caches)
        self.registers: list[Rows] = []
        """What the row registers count, in their order."""

    def scratch_bytes(self, rooms: Rooms) -> list[int]:
        """For each instruction, bytes for pieces that are not whole rows, in a step with the most rows."""
        return [sum(self._room(each, rooms)) for each in self._code]

    def _room(self, instruction: Instruction, rooms: Rooms) -> tuple[int, int]:
        """Bytes for what is sent and for what is taken."""
        plan = instruction.plan
        if plan is None or instruction.op is Op.COPY:
            return 0, 0
        size, room = instruction.out.buffer.dtype.itemsize, rooms[instruction.out.buffer.rows.table]
        return _piece_bytes(plan.sends, room, size), _piece_bytes(plan.takes, room, size)

    def assemble(self, places: Places, scratch: Sequence[int], base: int, rooms: Rooms) -> list[InstructionRecord]:
        """`base`: address of the arena; `scratch`: where in it each instruction's pieces lie."""
        self._places, self._base = places, base
        return [self._record(each, base + at, rooms) for each, at in zip(self._code, scratch, strict=True)]

    def _record(self, instruction: Instruction, scratch: int, rooms: Rooms) -> InstructionRecord:
        record = InstructionRecord(op=instruction.op, rows=self._register(instruction), exact=int(self._exact))
        record.out = self._operand(instruction.out)
        for index, view in enumerate(instruction.inputs):
            record.inputs[index] = self._operand(view)
        if instruction.op is Op.ALL_REDUCE:
            record.inputs[0] = record.out
        if instruction.op is Op.EMBED:
            record.inputs[1] = self._table(instruction.tensors[WEIGHT])
        fill(record, instruction, self._address)
        for index, view in instruction.views.items():
            record.p[index] = self._operand(view).base
        if instruction.cache is not None:
            point_at_cache(record, self._caches[instruction.cache])
        if instruction.op in ATTENDING:
            record.p[WORKSPACE], record.n[WORK_CHUNKS] = self._address(self._workspace), self._chunks
        if instruction.group is not None:
            record.n[GROUP] = 0 if self._end is None else self._end.groups[instruction.group][0]
        if instruction.plan is not None:
            record.p[EXCHANGE] = self._exchange(instruction, instruction.plan, scratch, rooms)
        return record

    def _register(self, instruction: Instruction) -> int:
        rows = instruction.out.buffer.rows
        if rows not in self.registers:
            self.registers.append(rows)
        number = self.registers.index(rows)
        if number >= MAX_ROW_REGISTERS:
            raise NotTraceableError(f"more than {MAX_ROW_REGISTERS} different counts of rows")
        return number

    def _operand(self, view: View) -> OperandRecord:
        buffer = view.buffer
        at = None
        if not buffer.given:
            at = self._base + self._places.of[buffer.storage] + view.left * buffer.dtype.itemsize
        return OperandRecord(at, buffer.columns // view.fold, _DTYPES[buffer.dtype], view.columns)

    def _address(self, tensor: object) -> int | None:
        self.keeps.append(tensor)
        if tensor is None:
            return None
        if isinstance(tensor, PackedWeight):
            return tensor.address
        if isinstance(tensor, PackedSlots):
            places = tensor.addresses()
            self.keeps.append(places)
            return ctypes.addressof(places)
        if not isinstance(tensor, Tensor) or not tensor.is_contiguous():
            raise NotTraceableError(f"an operand that is no contiguous tensor: {type(tensor).__name__}")
        return tensor.data_ptr()

    def _table(self, weight: object) -> OperandRecord:
        """An embedding that is not packed."""
        if not isinstance(weight, Tensor):
            return OperandRecord()
        return OperandRecord(weight.data_ptr(), weight.shape[1], _DTYPES[weight.dtype], weight.shape[1])

    def _exchange(self, instruction: Instruction, plan: Plan, scratch: int, rooms: Rooms) -> int:
        view, table = instruction.inputs[0] if instruction.inputs else instruction.out, instruction.out.buffer.rows
        number, position = (0, 0) if self._end is None else self._end.groups.get(plan.group, (0, 0))
        sends, takes = _areas(plan.sends), _areas(plan.takes)
        record = ExchangeRecord(
            group=number,
            members=len(plan.group),
            position=position,
            table=TABLES.index(table.table),
            in_base=view.buffer.rows.lo,
            in_end=view.buffer.rows.hi,
            out_base=table.lo,
            keeps=int(plan.keeps is not None),
            sends=sends,
            takes=takes,
            sent=scratch,
            taken=scratch + self._room(instruction, rooms)[0],
        )
        if plan.keeps is not None:
            record.keep_from, record.keep_to = (_area(each) for each in plan.keeps)
        self.keeps += [sends, takes, record]
        return ctypes.addressof(record)


def _area(area: Area | None) -> AreaRecord:
    if area is None:
        return AreaRecord(0)
    return AreaRecord(1, area.lo, area.hi, area.left, area.right, int(area.whole))


def _areas(areas: Areas) -> ctypes.Array[AreaRecord]:
    return (AreaRecord * max(1, len(areas)))(*map(_area, areas))


def _piece_bytes(areas: Areas, room: int, size: int) -> int:
    return sum(
        (area.hi - area.lo) * room * (area.right - area.left) * size
        for area in areas
        if area is not None and not area.whole
    )
