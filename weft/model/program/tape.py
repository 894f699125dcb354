"""The tape of a traced forward pass: its instructions so far, and transitions that add theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from weft.compute.comm.base import Comm, Group
from weft.compute.comm.redistribute import Plan, plans
from weft.compute.comm.stage import StageComm
from weft.compute.ops.native.calls import Call, Handle
from weft.compute.ops.operations.attention import ATTENDING, TABLE
from weft.compute.ops.operations.declare import OpCode
from weft.compute.ops.operations.table import Op
from weft.model.models.transitions import Transitions
from weft.model.program.ir import TABLES, Buffer, Instruction, NotTraceableError, Rows, Table, View
from weft.parallel.layout.boundaries import Boundary
from weft.parallel.layout.pipeline_p2p import PipelineTransfer
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.transition import Step

ROWS = 2
"""Rows of the tensors that stand for buffers; any number would do."""
_OP_OF_STEP = {
    "all_reduce": Op.ALL_REDUCE,
    "all_gather": Op.ALL_GATHER,
    "reduce_scatter": Op.REDUCE_SCATTER,
    "all_to_all": Op.ALL_TO_ALL,
}


class Tape:
    """The instructions so far, and which tensor stands for which view."""

    def __init__(self, layer_of: Mapping[int, int]) -> None:
        """`layer_of`: the layer of a cache, by the address of its record."""
        self._layer_of = layer_of
        self.instructions: list[Instruction] = []
        self.module = ""
        self._stands: dict[int, Buffer] = {}
        self._kept: list[Tensor] = []
        self._latest: dict[int, int] = {}

    def tensor(self, buffer: Buffer) -> Tensor:
        """A tensor without content that stands for the buffer as it is from here on."""
        found = torch.empty(ROWS, buffer.columns, dtype=buffer.dtype, device="meta")
        key = found.untyped_storage()._cdata
        self._kept.append(found)
        self._stands[key] = buffer
        self._latest[id(buffer)] = key
        return found

    def new(self, like: Handle, columns: int, dtype: torch.dtype, fold: int = 1) -> Handle:
        """As of a `Sink`: a tensor that stands for a new buffer; a view where its rows are folded."""
        rows = self._as_view(like).buffer.rows
        if fold == 1:
            return self.tensor(Buffer(rows, columns, dtype))
        return View(Buffer(rows, fold * columns, dtype), 0, columns, fold)

    def beside(self, left: Tensor, right: Tensor) -> Tensor:
        """As of a `Sink`: both are parts of one buffer."""
        return self.whole(left)

    def emit(self, call: Call) -> None:
        """As of a `Sink`."""
        found = self.append(call.op, self._as_view(call.out), *call.inputs)
        found.numbers, found.floats, found.tensors = dict(call.numbers), dict(call.floats), dict(call.tensors)
        found.views = {index: self._as_view(rows) for index, rows in call.buffers.items()}
        found.cache = None if call.cache is None else self._layer_of[id(call.cache)]
        if call.op in (*ATTENDING, Op.DISPATCH):
            found.numbers[TABLE] = TABLES.index(self._as_view(call.inputs[0]).buffer.rows.table)

    def _as_view(self, rows: Handle) -> View:
        return rows if isinstance(rows, View) else self.view(rows)

    def view(self, x: Tensor) -> View:
        """What `x` stands for. NotTraceableError where that is no view of a buffer's columns, or was overwritten."""
        key = x.untyped_storage()._cdata
        buffer = self._stands.get(key)
        if buffer is None:
            raise NotTraceableError(f"{self.module}: a tensor that no recorded operation gave")
        if self._latest[id(buffer)] != key:
            raise NotTraceableError(f"{self.module}: reads what was overwritten before")
        if x.shape[0] != ROWS or x.stride(0) != buffer.columns or not x[0].is_contiguous():
            raise NotTraceableError(f"{self.module}: a view of rows {tuple(x.shape)}, strides {x.stride()}")
        return View(buffer, int(x.storage_offset()), prod(x.shape[1:]))

    def whole(self, x: Tensor) -> Tensor:
        """The tensor that stands for all columns of the buffer that x is a part of."""
        key = self._latest[id(self.view(x).buffer)]
        return next(each for each in self._kept if each.untyped_storage()._cdata == key)

    def add(self, op: OpCode, out: Tensor, *inputs: Tensor | View) -> Instruction:
        """Adds an operation. Tensors that it overwrites are read as views before the tensor that follows is made."""
        return self.append(op, self.view(out), *inputs)

    def append(self, op: OpCode, out: View, *inputs: Tensor | View) -> Instruction:
        """The same for a result that no tensor stands for."""
        views = tuple(map(self._as_view, inputs))
        found = Instruction(op, self.module, out, views)
        self.instructions.append(found)
        return found

    def over(self, x: Tensor) -> Tensor:
        """A tensor for what will stand in x's buffer once the next operation has written to it."""
        view = self.view(x)
        if view.columns != view.buffer.columns:
            raise NotTraceableError(f"{self.module}: overwrites some columns of a buffer")
        return self.tensor(view.buffer)

    def left(self, x: Tensor, table: Table) -> Tensor:
        """One for the rows of `table` that the next operation leaves in x's buffer, of all that are there."""
        view = self.view(x)
        old = view.buffer
        if view.columns != old.columns:
            raise NotTraceableError(f"{self.module}: takes rows from some columns of a buffer")
        new = Buffer(replace(old.rows, table=table), old.columns, old.dtype, alias_of=old)
        found = self.tensor(new)
        self._latest[id(old)] = self._latest[id(new)]
        return found.view(ROWS, *x.shape[1:])


class TracingTransitions(Transitions):
    """Adds each boundary's collectives; `tables` says which of the two row tables a record stands for."""

    def __init__(self, boundaries: Mapping[str, Boundary], comm: Comm, tape: Tape, tables: Mapping[int, Table]) -> None:
        super().__init__(boundaries, comm)
        self._tape, self._tables = tape, tables

    def send(self, transfer: PipelineTransfer, x: Tensor, peer: int) -> None:
        view = self._message(transfer, x)
        self._tape.append(Op.SEND, view, view).group = self._pair(peer)

    def receive(self, transfer: PipelineTransfer, out: Tensor, peer: int) -> Tensor:
        """A tensor for the rows that come; `out` says their dtype alone."""
        size = transfer.held.size
        first = self.comm.rank - self.comm.rank % size
        found = self._tape.tensor(Buffer(Rows(transfer.rows, first, first + size), transfer.width, out.dtype))
        self._tape.append(Op.RECV, self._message(transfer, found)).group = self._pair(peer)
        return found

    def _message(self, transfer: PipelineTransfer, x: Tensor) -> View:
        self._tape.module = transfer.name
        view = self._tape.view(x)
        if view.columns != view.buffer.columns:
            raise NotTraceableError(f"{transfer.name}: a message of some columns of a buffer")
        return view

    def _pair(self, peer: int) -> Group:
        """In the world's numbers, as both stages know it."""
        own = self.comm.first + self.comm.rank if isinstance(self.comm, StageComm) else self.comm.rank
        return min(own, peer), max(own, peer)

    def run(self, name: str, steps: tuple[Step, ...], x: Tensor, table: RowTable) -> Tensor:
        self._tape.module = name
        which = self._tables[id(table)]
        for step, plan in zip(steps, plans(steps, self.comm.rank), strict=True):
            x = self._step(step, plan, x, which)
        return x

    def _step(self, step: Step, plan: Plan, x: Tensor, table: Table) -> Tensor:
        view = self._tape.view(x)
        if step.kind == "slice":
            return self._slice(plan, x, view, table)
        if view.columns != view.buffer.columns:
            raise NotTraceableError(f"{self._tape.module}: a collective over some columns of a buffer")
        if step.kind == "all_reduce":
            out = self._tape.over(x)
        else:
            out = self._tape.tensor(Buffer(Rows(table, *plan.runs), plan.columns, x.dtype))
        self._tape.add(_OP_OF_STEP[step.kind], out, view).plan = plan
        return out

    def _slice(self, plan: Plan, x: Tensor, view: View, table: Table) -> Tensor:
        area = plan.sends[0]
        if area is None:
            raise NotTraceableError(f"{self._tape.module}: a slice of nothing")
        if (area.lo, area.hi) == (view.buffer.rows.lo, view.buffer.rows.hi) and view.columns == view.buffer.columns:
            return x[:, area.left : area.right]
        out = self._tape.tensor(Buffer(Rows(table, *plan.runs), plan.columns, x.dtype))
        self._tape.add(Op.COPY, out, view).plan = plan
        return out
