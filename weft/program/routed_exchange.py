"""How an all_to_all of routed rows is noted: the block's choices, rows there, answers back. See `models.dispatch`.

Sizes of messages are content: C++ finds them in a step (`native/kernels/moe/routed.h`), in tables that are named here.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from weft.layers import Experts
from weft.layout.routed import RoutedBlock
from weft.layout.rows import RowTable
from weft.models.dispatch import TokenDispatcher
from weft.native.records import (
    ADDENDS,
    ARRIVED_WEIGHTS,
    COUNT,
    EDGES,
    EP,
    FIRST_RANK,
    KIND,
    MEMBERS,
    ORDER,
    PLACE_IN_BLOCK,
    POSITION,
    SENT_ANSWERS,
    SENT_ROWS,
    SIZES,
    SORTED_WEIGHTS,
    TABLE,
    TOP_K,
    TP,
    Op,
)
from weft.ops.base import Numerics
from weft.ops.native.packed import PackedSlots
from weft.program.ir import TABLES, Buffer, Instruction, Rows, View
from weft.program.routed import Sorted, placing, trace_answers
from weft.program.tape import Tape, TracingTransitions

ROWS_SENT, ANSWERS_SENT, KINDS = 0, 2, 4
"""Kinds of sizes, as `routed.h` numbers them, and how many there are; what is taken follows what is sent."""


class TracedAllToAll(TokenDispatcher):
    """Takes the place of `AllToAll` in a recording."""

    name = "all_to_all"

    def __init__(self, transitions: TracingTransitions, block: RoutedBlock, tape: Tape, numerics: Numerics) -> None:
        self._transitions, self._block, self._tape, self._numerics = transitions, block, tape, numerics
        self._place = transitions.comm.rank % block.size
        self._first = transitions.comm.rank - self._place
        self._group = tuple(range(self._first, self._first + block.size))

    def run(self, experts: Experts, x: Tensor, rows: RowTable) -> Tensor:
        """As `TokenDispatcher.run`."""
        own = self._transitions.move("experts.in", x, rows)
        chosen, _ = experts.route(own)
        told = self._transitions.move_columns("experts.choices", self._tape.whole(chosen), rows)
        self._tape.module = "experts"
        dealt = _Dealt(self._tape.view(own).buffer, self._tape.view(told).buffer, experts, self._block)
        self._deal(dealt, self._tape.view(told), experts)
        out = self._answered(dealt, self._tape.view(own), experts)
        return self._transitions.move("experts.out", out, rows)

    def _deal(self, dealt: _Dealt, told: View, experts: Experts) -> None:
        found = self._tape.add(Op.DEAL, self._tape.tensor(dealt.places), told)
        placing(found, experts.tables, dealt.sorted)
        block = {TP: self._block.tp, EP: len(self._block.slots), PLACE_IN_BLOCK: self._place, FIRST_RANK: self._first}
        found.numbers |= block | {TABLE: TABLES.index(told.buffer.rows.table)}
        found.tensors |= {SIZES: dealt.sizes, EDGES: dealt.edges}
        found.views |= {SENT_ROWS: dealt.sent_rows, SENT_ANSWERS: dealt.sent_answers, ARRIVED_WEIGHTS: dealt.weights}

    def _answered(self, dealt: _Dealt, own: View, experts: Experts) -> Tensor:
        """Sums of the answers to the own rows."""
        gate_up, down = experts.gate_up, experts.down
        assert isinstance(gate_up, PackedSlots) and isinstance(down, PackedSlots)
        k, tp, width, dtype = self._block.top_k, self._block.tp, own.columns, self._numerics.dtype

        def folded(rows: Rows, fold: int) -> View:
            return View(Buffer(rows, fold * width, dtype), 0, width, fold)

        here, block = dealt.places.rows, dealt.sorted.places.rows
        sent = folded(here, min(k, len(self._block.slots)))
        self._gather(sent, own, dealt.count(ROWS_SENT), dealt.sent_rows)
        received = folded(block, 1)
        self._exchange("experts.dispatch", received, sent, dealt, ROWS_SENT)
        answers = trace_answers(self._tape, received, dealt.sorted, (gate_up, down), dtype)
        given = folded(block, k)
        self._gather(given, answers, dealt.count(ANSWERS_SENT), dealt.sent_answers)
        arrived = folded(here, tp * k)
        self._exchange("experts.combine", arrived, given, dealt, ANSWERS_SENT)
        out = self._tape.new(here, width, dtype)
        found = self._tape.add(Op.COMBINE, out, arrived, View(dealt.places, 0, k))
        found.numbers |= {TOP_K: k, ADDENDS: tp}
        if not self._numerics.exact:
            found.views[SORTED_WEIGHTS] = dealt.weights
        return out

    def _gather(self, out: View, rows: View, count: Tensor, order: View) -> None:
        found = self._tape.emit(Op.GATHER, out, rows)
        found.tensors[COUNT], found.views[ORDER] = count, order

    def _exchange(self, module: str, out: View, rows: View, dealt: _Dealt, kind: int) -> None:
        before, self._tape.module = self._tape.module, module
        found: Instruction = self._tape.emit(Op.ROUTED, out, rows)
        found.numbers |= {MEMBERS: self._block.size, POSITION: self._place, KIND: kind}
        found.tensors[COUNT], found.group = dealt.sizes, self._group
        self._tape.module = before


class _Dealt:
    """What `DEAL` writes for one layer, for `own` rows and those of the block."""

    def __init__(self, own: Buffer, told: Buffer, experts: Experts, block: RoutedBlock) -> None:
        k = block.top_k
        lo, hi = experts.tables.here
        self.sorted = Sorted(told, k, hi - lo)
        self.places = Buffer(own.rows, k, torch.int64)
        self.sent_rows = View(Buffer(own.rows, k, torch.int64), 0, k)
        self.weights = View(Buffer(own.rows, k, torch.float64), 0, k)
        self.sent_answers = View(Buffer(told.rows, k, torch.int64), 0, k)
        self.sizes = torch.zeros(KINDS * 2 * block.size + KINDS, dtype=torch.int64)
        self.edges = torch.tensor([0, *accumulate(block.slots)], dtype=torch.int64)
        self._totals = self.sizes[KINDS * 2 * block.size :]

    def count(self, kind: int) -> Tensor:
        """Where `DEAL` puts the number of rows of a kind."""
        return self._totals[kind : kind + 1]
