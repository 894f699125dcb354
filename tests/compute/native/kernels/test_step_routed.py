"""`DISPATCH` against a loop over rows and positions: blocks, expert tp, replicas, uneven and empty ranks."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.compute.native import step_cases
from weft.compute.native.records import StepRecord
from weft.compute.ops.operations.experts import (
    ADDENDS,
    ARRIVED_WEIGHTS,
    EDGES,
    ENDS,
    EP,
    EXPERTS,
    FIRST_RANK,
    HERE_HI,
    HERE_LO,
    MOST,
    ORDER,
    PLACE_IN_BLOCK,
    REPLICAS,
    SENT_ANSWERS,
    SENT_ROWS,
    SIZES,
    SLOT_OF,
    SORTED_WEIGHTS,
    TALLY,
    TOP_K,
    TP,
)
from weft.compute.ops.operations.table import Op
from weft.compute.ops.slot_tables import SlotTables
from weft.parallel.layout.splits import even_splits

pytestmark = pytest.mark.usefixtures("step_library")

CPU = torch.device("cpu")
FIRST = 3
"""Ranks of the stage before the block."""


@dataclass
class Block:
    """Rows of every rank of a block, and what they chose."""

    tp: int
    ep: int
    slot_map: tuple[int, ...]
    k: int
    rows: list[int]

    def __post_init__(self) -> None:
        self.experts = max(self.slot_map) + 1
        draw = torch.Generator().manual_seed(sum(self.rows) + self.k)
        every = [torch.randperm(self.experts, generator=draw)[: self.k] for _ in range(sum(self.rows))]
        self.chosen = torch.stack(every) if every else torch.empty(0, self.k, dtype=torch.int64)
        self.weights = torch.rand(len(self.chosen), self.k, generator=draw)
        self.positions = even_splits(len(self.slot_map), self.ep)
        self.slots = self.tables(0).slots(self.chosen)

    def tables(self, place: int) -> SlotTables:
        return SlotTables.of(self.slot_map, self.experts, self.positions[place // self.tp], CPU)

    def own(self, place: int) -> range:
        return range(sum(self.rows[:place]), sum(self.rows[: place + 1]))

    def position_of(self, slot: int) -> int:
        return next(p for p, (lo, hi) in enumerate(self.positions) if lo <= slot < hi)


class Dispatched:
    """What `DISPATCH` writes for the rank at `place`."""

    def __init__(self, block: Block, place: int, variant: str) -> None:
        count, own, k = len(block.chosen), len(block.own(place)), block.k
        self.tables, (lo, hi) = block.tables(place), block.positions[place // block.tp]
        self.tables.tally = torch.zeros(block.experts, dtype=torch.int64)
        self.places = torch.full((own, k), -7)
        self.order, self.answers, self.sent = (torch.full((count * k,), -7) for _ in range(3))
        self.weights, self.arrived = torch.zeros(count * k).double(), torch.zeros(own * k).double()
        self.ends, self.sizes = (
            torch.zeros(2 * (hi - lo), dtype=torch.int64),
            torch.zeros(8 * len(block.rows) + 4).long(),
        )
        edges = torch.tensor([0, *(hi for _, hi in block.positions)])
        starts = torch.tensor([0] * FIRST + [2, *(2 + block.own(p).stop for p in range(len(block.rows)))])
        step = StepRecord()
        step.starts[0] = ctypes.c_void_p(starts.data_ptr())
        numbers = {TOP_K: k, HERE_LO: lo, HERE_HI: hi, EXPERTS: block.experts, MOST: self.tables.slot_of.shape[1]}
        numbers |= {TP: block.tp, EP: block.ep, PLACE_IN_BLOCK: place, FIRST_RANK: FIRST}
        pointers: dict[int, Tensor | None] = {
            REPLICAS: self.tables.replicas,
            SLOT_OF: self.tables.slot_of,
            TALLY: self.tables.tally,
            ENDS: self.ends,
            ORDER: self.order,
            SORTED_WEIGHTS: self.weights,
            SENT_ROWS: self.sent,
            SENT_ANSWERS: self.answers,
            ARRIVED_WEIGHTS: self.arrived,
            SIZES: self.sizes,
            EDGES: edges,
        }
        gathered = torch.cat((block.chosen.float(), block.weights), 1)
        step_cases.run(variant, 2, Op.DISPATCH, self.places, [gathered], step, n=numbers, p=pointers)
        self.held = hi - lo
        kinds = self.sizes[: 8 * len(block.rows)].view(4, 2, len(block.rows)).tolist()
        self.rows_sent, self.rows_taken, self.answers_sent, self.answers_taken = (
            list(zip(*kind, strict=True)) for kind in kinds
        )
        self.totals = self.sizes[8 * len(block.rows) :].tolist()


BLOCKS = [
    Block(tp, ep, slot_map, k, rows)
    for tp, ep in [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 2), (1, 4)]
    for slot_map, k in [((0, 1, 2, 3, 4), 2), ((0, 1, 2, 3, 0, 2, 0, 1), 3), ((0, 1, 2, 3), 4), ((2, 0, 1, 1, 0), 1)]
    for rows in ([3] * (tp * ep), [random.Random(tp + ep).randrange(7) for _ in range(tp * ep)], [0] * (tp * ep))
    if len(slot_map) >= ep
]


def test_rows_and_answers_go_where_they_are_wanted(variant: str) -> None:
    """A message between any two ranks is row for row what the other end expects, and every choice finds its answer."""
    for block in BLOCKS:
        ranks = [Dispatched(block, place, variant) for place in range(len(block.rows))]
        for place, here in enumerate(ranks):
            position = place // block.tp
            wanted = {
                row for row, slots in enumerate(block.slots.tolist()) if position in map(block.position_of, slots)
            }
            received: list[int] = []
            for peer, there in enumerate(ranks):
                at, count = there.rows_sent[place]
                rows = [int(each) + block.own(peer).start for each in there.sent[at : at + count]]
                assert rows == sorted(wanted & set(block.own(peer)))
                assert here.rows_taken[peer] == (len(received), count)
                received += rows
            assert here.totals[1] == len(received)
            check_sorted(block, place, here, received)
        check_answers(block, ranks)
        assert all(
            rank.tables.tally.tolist() == torch.bincount(block.chosen.flatten(), minlength=block.experts).tolist()
            for rank in ranks
            if rank.tables.tally is not None
        )


def check_sorted(block: Block, place: int, here: Dispatched, received: list[int]) -> None:
    """Sorted by slot, and inside a slot in the order of choices, are the received rows that chose it."""
    lo, begin = here.tables.here[0], 0
    for slot, end in enumerate(here.ends[: here.held].tolist()):
        chose = [
            (row, c) for row, slots in enumerate(block.slots.tolist()) for c, s in enumerate(slots) if s == lo + slot
        ]
        assert [received[int(each)] for each in here.order[begin:end]] == [row for row, _ in chose]
        assert here.weights[begin:end].tolist() == [float(block.weights[at]) for at in chose]
        begin = end
    assert begin == here.totals[2]


def check_answers(block: Block, ranks: list[Dispatched]) -> None:
    for place, here in enumerate(ranks):
        own = len(block.own(place)) * block.k
        arrived: dict[int, tuple[int, int]] = {}
        for peer, there in enumerate(ranks):
            (at, count), (to, taken) = there.answers_sent[place], here.answers_taken[peer]
            assert count == taken
            places = there.answers[at : at + count].tolist()
            slots = torch.bucketize(torch.tensor(places), there.ends[: there.held], right=True) + there.tables.here[0]
            arrived |= {to + i: (peer, int(slot)) for i, slot in enumerate(slots)}
        for index, row in enumerate(block.own(place)):
            for choice in range(block.k):
                at, slot = int(here.places[index, choice]), int(block.slots[row, choice])
                assert 0 <= at < own and here.arrived[at] == float(block.weights[row, choice])
                for addend in range(block.tp):
                    assert arrived[addend * own + at] == (block.position_of(slot) * block.tp + addend, slot)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_addends_of_an_answer_are_added_in_rank_order(variant: str, dtype: torch.dtype) -> None:
    answers, places, weights = torch.randn(3 * 8, 21).to(dtype), torch.randperm(8).view(4, 2), torch.rand(8).double()
    wide = torch.promote_types(dtype, torch.float32)
    addends = answers.to(wide).view(3, 8, 21)
    total = (addends[0] + addends[1] + addends[2]) * weights.to(wide)[:, None]
    out = torch.empty(4, 21, dtype=dtype)
    step_cases.run(
        variant, 2, Op.COMBINE, out, [answers, places], n={TOP_K: 2, ADDENDS: 3}, p={SORTED_WEIGHTS: weights}
    )
    assert torch.equal(out, (total[places[:, 0]] + total[places[:, 1]]).to(dtype))
