"""How an all_to_all of routed rows is noted: the block's choices, rows there, answers back. See `models.dispatch`.

Sizes of messages are content: C++ finds them in a step (`compute/native/kernels/moe/routed.h`), in tables that are
named here.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from weft.compute.ops.base import Numerics
from weft.compute.ops.native.builder import Builder
from weft.compute.ops.native.calls import Call, Handle
from weft.compute.ops.native.packed import PackedSlots
from weft.compute.ops.operations.exchanges import KIND, MEMBERS, POSITION
from weft.compute.ops.operations.experts import (
    ADDENDS,
    ARRIVED_WEIGHTS,
    COUNT,
    EDGES,
    EP,
    FIRST_RANK,
    PLACE_IN_BLOCK,
    SENT_ANSWERS,
    SENT_ROWS,
    SIZES,
    TP,
    placing,
)
from weft.compute.ops.operations.table import Op
from weft.model.layers import Experts
from weft.model.models.dispatch import TokenDispatcher
from weft.model.program.tape import Tape, TracingTransitions
from weft.parallel.layout.routed import RoutedBlock
from weft.parallel.layout.rows import RowTable

ROWS_SENT, ANSWERS_SENT, KINDS = 0, 2, 4
"""Kinds of sizes, as `routed.h` numbers them, and how many there are; what is taken follows what is sent."""


class TracedAllToAll(TokenDispatcher):
    """Takes the place of `AllToAll` in a recording."""

    name = "all_to_all"

    def __init__(self, transitions: TracingTransitions, block: RoutedBlock, tape: Tape, numerics: Numerics) -> None:
        self._transitions, self._block, self._tape, self._numerics = transitions, block, tape, numerics
        self._builder = Builder(tape, numerics.exact)
        self._place = transitions.comm.rank % block.size
        self._first = transitions.comm.rank - self._place
        self._group = tuple(range(self._first, self._first + block.size))

    def run(self, experts: Experts, x: Tensor, rows: RowTable) -> Tensor:
        """As `TokenDispatcher.run`."""
        own = self._transitions.move("experts.in", x, rows)
        chosen, _ = experts.route(own)
        gathered = self._transitions.move_columns("experts.choices", self._tape.whole(chosen), rows)
        self._tape.module = "experts"
        dispatch = _Dispatch(self._tape, self._builder, own, gathered, experts, self._block)
        self._plan(dispatch, gathered, experts)
        out = self._answered(dispatch, own, gathered, experts)
        return self._transitions.move("experts.out", out, rows)

    def _plan(self, dispatch: _Dispatch, gathered: Tensor, experts: Experts) -> None:
        block = {TP: self._block.tp, EP: len(self._block.slots), PLACE_IN_BLOCK: self._place, FIRST_RANK: self._first}
        call = placing(Call(Op.DISPATCH, dispatch.places, (gathered,), block), dispatch.sorted, experts.tables)
        call.tensors = {**call.tensors, SIZES: dispatch.sizes, EDGES: dispatch.edges}
        call.buffers = {
            **call.buffers,
            SENT_ROWS: dispatch.sent_rows,
            SENT_ANSWERS: dispatch.sent_answers,
            ARRIVED_WEIGHTS: dispatch.weights,
        }
        self._tape.emit(call)

    def _answered(self, dispatch: _Dispatch, own: Tensor, gathered: Tensor, experts: Experts) -> Tensor:
        """Sums of the answers to the own rows."""
        gate_up, down = experts.gate_up, experts.down
        assert isinstance(gate_up, PackedSlots) and isinstance(down, PackedSlots)
        k, tp, width, dtype = self._block.top_k, self._block.tp, own.shape[1], self._numerics.dtype
        new, builder = self._tape.new, self._builder
        sent = new(own, width, dtype, min(k, len(self._block.slots)))
        builder.gather(sent, own, dispatch.count(ROWS_SENT), dispatch.sent_rows)
        received = new(gathered, width, dtype)
        self._exchange("experts.dispatch", received, sent, dispatch, ROWS_SENT)
        answers = builder.answers(received, width, dispatch.sorted, gate_up, down, dtype)
        given = new(gathered, width, dtype, k)
        builder.gather(given, answers, dispatch.count(ANSWERS_SENT), dispatch.sent_answers)
        arrived = new(own, width, dtype, tp * k)
        self._exchange("experts.combine", arrived, given, dispatch, ANSWERS_SENT)
        out: Tensor = new(own, width, dtype)
        builder.combine(arrived, dispatch.places, dispatch.weights, out, k, {ADDENDS: tp})
        return out

    def _exchange(self, module: str, out: Handle, rows: Handle, dispatch: _Dispatch, kind: int) -> None:
        before, self._tape.module = self._tape.module, module
        numbers = {MEMBERS: self._block.size, POSITION: self._place, KIND: kind}
        self._tape.emit(Call(Op.ROUTED, out, (rows,), numbers, {}, {COUNT: dispatch.sizes}))
        self._tape.instructions[-1].group = self._group
        self._tape.module = before


class _Dispatch:
    """What `DISPATCH` writes for one layer, for `own` rows and those of the block."""

    def __init__(
        self, tape: Tape, builder: Builder, own: Tensor, gathered: Tensor, experts: Experts, block: RoutedBlock
    ) -> None:
        k = block.top_k
        lo, hi = experts.tables.here
        self.sorted = builder.placed(gathered, k, hi - lo)
        self.places, self.sent_rows = (tape.new(own, k, torch.int64) for _ in range(2))
        self.weights = tape.new(own, k, torch.float64)
        self.sent_answers = tape.new(gathered, k, torch.int64)
        self.sizes = torch.zeros(KINDS * 2 * block.size + KINDS, dtype=torch.int64)
        self.edges = torch.tensor([0, *accumulate(block.slots)], dtype=torch.int64)
        self._totals = self.sizes[KINDS * 2 * block.size :]

    def count(self, kind: int) -> Tensor:
        """Where `DISPATCH` puts the number of rows of a kind."""
        return self._totals[kind : kind + 1]
