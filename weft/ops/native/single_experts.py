"""Instructions of routed experts one at a time, on tensors. Slots are numbers of this rank's own; knows no rank.

Choices [N, 2 k] are what ROUTE gives: a row's experts as numbers, best first, then their weights.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.native.records import (
    CORRECTION,
    COUNT,
    ENDS,
    EPILOGUE,
    EXPERTS,
    GROUP_BEST,
    GROUPS,
    HERE_HI,
    HERE_LO,
    MOST,
    NORMALIZE,
    ORDER,
    REPLICAS,
    SCALE,
    SIGMOID,
    SLOT_OF,
    SLOTS,
    SORTED_WEIGHTS,
    TALLY,
    TOP_GROUPS,
    TOP_K,
    WEIGHTS,
    Epilogue,
    Op,
)
from weft.ops.native.packed import PackedSlots, operand
from weft.ops.native.single import Single
from weft.ops.reference.torch_ops import wide
from weft.ops.slot_tables import SlotTables


@dataclass(frozen=True, slots=True)
class Placed:
    """Choices sorted by slot. places [N, k]: where the answer to each will lie, -1: not here; order: the row of each
    place; weights: fp64, of each place; ends [2 * slots]: places up to each slot's last (then scratch). Of `order` and
    `weights` only as many are filled as there are choices here."""

    places: Tensor
    order: Tensor
    weights: Tensor
    ends: Tensor


class SingleExperts(Single):
    """`Single` with what routed experts need."""

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> Tensor:
        """logits [N, E] -> choices, in fp32 at least; see `weft.ops.reference.routing`."""
        choices = torch.empty(logits.shape[0], 2 * moe.top_k, dtype=wide(logits.dtype))
        record = self._record(Op.ROUTE)
        for index, number in routing_numbers(moe).items():
            record.n[index] = number
        record.f[SCALE] = moe.scale
        computed = torch.float64 if self._exact else choices.dtype
        vectors = {} if correction is None else {CORRECTION: correction.to(computed)}
        return self._run(record, choices, logits.contiguous(), None, vectors)

    def place(self, choices: Tensor, slots: int, tables: SlotTables | None = None) -> Placed:
        """Sorts choices by the `slots` here, as `tables` say; without tables they are slots, below 0 none."""
        rows, k = choices.shape[0], choices.shape[1] // 2
        found = Placed(
            torch.empty(rows, k, dtype=torch.int64),
            torch.empty(rows * k, dtype=torch.int64),
            torch.empty(rows * k, dtype=torch.float64),
            torch.empty(2 * slots, dtype=torch.int64),
        )
        record = self._record(Op.PLACE)
        record.n[TOP_K], record.n[HERE_LO], record.n[HERE_HI] = k, 0, slots
        vectors = {ENDS: found.ends, ORDER: found.order, SORTED_WEIGHTS: found.weights}
        if tables is not None:
            record.n[EXPERTS], record.n[MOST] = tables.slot_of.shape
            record.n[HERE_LO], record.n[HERE_HI] = tables.here
            vectors |= {REPLICAS: tables.replicas, SLOT_OF: tables.slot_of}
            if tables.tally is not None:
                vectors[TALLY] = tables.tally
        self._run(record, found.places, choices, None, vectors)
        return found

    def answers(self, x: Tensor, placed: Placed, gate_up: PackedSlots, down: PackedSlots) -> Tensor:
        """[places, H]: what each place's slot answers to its row of x [N, H]."""
        rows = self._gather(x, placed)
        hidden = torch.empty(len(rows), gate_up.slots[0].shape[0] // 2, dtype=x.dtype)
        self.grouped(rows, placed.ends, gate_up, hidden, Epilogue.SILU_MUL_OF, placed.weights)
        answers = torch.empty(len(rows), down.slots[0].shape[0], dtype=x.dtype)
        return self.grouped(hidden, placed.ends, down, answers)

    def grouped(
        self,
        x: Tensor,
        ends: Tensor,
        weights: PackedSlots,
        out: Tensor,
        epilogue: Epilogue = Epilogue.STORE,
        row_weights: Tensor | None = None,
    ) -> Tensor:
        """out [places, columns] = x [places, in] @ weight.T by `epilogue`, for rows sorted by slot: those from
        ends[s - 1] to ends[s] (int64) times slot s's. `row_weights`: fp64, by which the exact model weighs rows."""
        record = self._record(Op.GROUPED)
        record.n[EPILOGUE], record.n[SLOTS] = epilogue, len(weights.slots)
        addresses = weights.addresses()
        record.p[WEIGHTS] = ctypes.addressof(addresses)
        vectors = {ENDS: ends} if row_weights is None else {ENDS: ends, SORTED_WEIGHTS: row_weights}
        return self._run(record, out, x, None, vectors)

    def combine(self, answers: Tensor, placed: Placed) -> Tensor:
        """[N, H]: sums of each row's answers, weighted, in the order of its choices."""
        out = torch.empty(len(placed.places), answers.shape[1], dtype=answers.dtype)
        record = self._record(Op.COMBINE)
        record.inputs[1], record.n[TOP_K] = operand(placed.places), placed.places.shape[1]
        return self._run(record, out, answers, None, {} if self._exact else {SORTED_WEIGHTS: placed.weights})

    def _gather(self, x: Tensor, placed: Placed) -> Tensor:
        out = torch.empty(len(placed.order), x.shape[1], dtype=x.dtype)
        last = placed.ends[: len(placed.ends) // 2][-1:]
        return self._run(self._record(Op.GATHER), out, x.contiguous(), None, {COUNT: last, ORDER: placed.order})


def routing_numbers(moe: MoEConfig) -> dict[int, int]:
    """ROUTE's numbers by their index."""
    return {
        TOP_K: moe.top_k,
        SIGMOID: moe.score == "sigmoid",
        NORMALIZE: moe.normalize,
        GROUPS: moe.groups,
        TOP_GROUPS: moe.top_groups,
        GROUP_BEST: moe.group_best,
    }
