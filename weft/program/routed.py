"""Traces routed experts: choices, rows sorted by slot, their products, sums.

How many rows a slot has is known in a step alone: rows sorted by slot lie in buffers with room for all choices, k rows
in each of theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.native.records import (
    CORRECTION,
    COUNT,
    ENDS,
    EPILOGUE,
    EXPERTS,
    HERE_HI,
    HERE_LO,
    MOST,
    ORDER,
    REPLICAS,
    SCALE,
    SLOT_OF,
    SLOTS,
    SORTED_WEIGHTS,
    TALLY,
    TOP_K,
    WEIGHTS,
    Epilogue,
    Op,
)
from weft.ops.base import Numerics
from weft.ops.native.packed import PackedSlots
from weft.ops.native.single_experts import routing_numbers
from weft.ops.slot_tables import SlotTables
from weft.program.ir import Buffer, Instruction, View
from weft.program.tape import Tape

Weights = tuple[PackedSlots, PackedSlots]
"""gate_up and down."""


def trace_choices(tape: Tape, logits: Tensor, correction: Tensor | None, moe: MoEConfig, dtype: torch.dtype) -> Tensor:
    """Choices [N, 2 k] of `dtype`: experts as numbers, then their weights."""
    out = tape.new(tape.view(logits).buffer.rows, 2 * moe.top_k, dtype)
    found = tape.add(Op.ROUTE, out, logits)
    found.numbers |= routing_numbers(moe)
    found.floats[SCALE] = moe.scale
    found.tensors[CORRECTION] = correction
    return out


def trace_routed(
    tape: Tape, x: Tensor, experts: Tensor, tables: SlotTables, weights: Weights, numerics: Numerics
) -> Tensor:
    """[N, H]: sums of the answers of the slots here; `experts` is a part of choices."""
    view = tape.view(experts)
    k, choices = view.columns, View(view.buffer, 0, view.buffer.columns)
    sorted_ = trace_placed(tape, choices, tables, k)
    answers = trace_answers(tape, tape.view(x), sorted_, weights, numerics.dtype)
    out = tape.new(choices.buffer.rows, answers.columns, numerics.dtype)
    found = tape.add(Op.COMBINE, out, answers, View(sorted_.places, 0, k))
    found.numbers[TOP_K] = k
    if not numerics.exact:
        found.views[SORTED_WEIGHTS] = sorted_.weights
    return out


class Sorted:
    """Buffers and tables of choices sorted by slot; see `weft.ops.native.single_experts.Placed`."""

    def __init__(self, like: Buffer, k: int, slots: int) -> None:
        self.k = k
        self.places = Buffer(like.rows, k, torch.int64)
        self.order = View(Buffer(like.rows, k, torch.int64), 0, k)
        self.weights = View(Buffer(like.rows, k, torch.float64), 0, k)
        self.ends = torch.zeros(2 * slots, dtype=torch.int64)
        self.count = self.ends[slots - 1 : slots]


def trace_placed(tape: Tape, choices: View, tables: SlotTables, k: int) -> Sorted:
    """Choices of all rows of the block, of which those of the slots here are sorted."""
    lo, hi = tables.here
    made = Sorted(choices.buffer, k, hi - lo)
    placing(tape.add(Op.PLACE, tape.tensor(made.places), choices), tables, made)
    return made


def placing(found: Instruction, tables: SlotTables, made: Sorted) -> None:
    """What every instruction says that finds the slots of choices and sorts those here."""
    (lo, hi), (experts, most) = tables.here, tables.slot_of.shape
    found.numbers |= {TOP_K: made.k, HERE_LO: lo, HERE_HI: hi, EXPERTS: experts, MOST: most}
    found.tensors |= {REPLICAS: tables.replicas, SLOT_OF: tables.slot_of, TALLY: tables.tally, ENDS: made.ends}
    found.views |= {ORDER: made.order, SORTED_WEIGHTS: made.weights}


def trace_answers(tape: Tape, x: View, placed: Sorted, weights: Weights, dtype: torch.dtype) -> View:
    """Answers to the rows of x, sorted by slot: k rows in each row of a buffer."""
    gate_up, down = weights
    rows = placed.places.rows

    def folded(columns: int) -> View:
        return View(Buffer(rows, placed.k * columns, dtype), 0, columns, placed.k)

    gathered = folded(x.columns)
    found = tape.emit(Op.GATHER, gathered, x)
    found.tensors[COUNT], found.views[ORDER] = placed.count, placed.order
    hidden, answers = folded(down.shape[1]), folded(down.slots[0].shape[0])
    steps = ((gathered, gate_up, hidden, Epilogue.SILU_MUL_OF), (hidden, down, answers, Epilogue.STORE))
    for given, matrices, out, epilogue in steps:
        found = tape.emit(Op.GROUPED, out, given)
        found.numbers |= {EPILOGUE: epilogue, SLOTS: len(matrices.slots)}
        found.tensors |= {WEIGHTS: matrices, ENDS: placed.ends}
        found.views[SORTED_WEIGHTS] = placed.weights
    return answers
