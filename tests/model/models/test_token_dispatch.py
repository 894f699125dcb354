"""Every dispatcher against a plain loop over rows and choices: blocks, expert tp, replicas, uneven and empty ranks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from weft.compute.comm.groups import distinct_groups
from weft.compute.comm.lockstep import LockstepComm, LockstepWorld
from weft.compute.ops.base import Numerics
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.model.layers import Experts
from weft.model.models.dispatch import AllGather, AllToAll, TokenDispatcher
from weft.model.models.transitions import Transitions
from weft.parallel.arch.config import MoEConfig
from weft.parallel.layout.boundaries import Boundary
from weft.parallel.layout.placement import Placement, full
from weft.parallel.layout.placement import partial as addends
from weft.parallel.layout.routed import RoutedBlock
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.splits import even_splits

HIDDEN, WIDE = 16, 12
FORMS = ("all_gather", "all_to_all")


class Case:
    """A world of `blocks` expert blocks of tp * ep ranks; the stream lies in blocks of `stream` ranks."""

    def __init__(self, tp: int, ep: int, blocks: int, stream: int, slot_map: Sequence[int], top_k: int) -> None:
        self.tp, self.ep, self.world, self.slot_map = tp, ep, tp * ep * blocks, tuple(slot_map)
        self.stream = full(stream)
        self.experts = max(slot_map) + 1
        self.moe = MoEConfig(num_experts=self.experts, top_k=top_k, intermediate_size=WIDE)
        torch.manual_seed(len(slot_map) * 7 + tp)
        self.router = torch.randn(self.experts, HIDDEN, dtype=torch.float64)
        self.gate_up = torch.randn(self.experts, 2, WIDE, HIDDEN, dtype=torch.float64) / 4
        self.down = torch.randn(self.experts, HIDDEN, WIDE, dtype=torch.float64) / 4
        self.ops = TorchOps(Numerics(torch.float64), torch.device("cpu"))

    def layer(self, rank: int) -> Experts:
        """The experts of a rank: its ep position's slots, its tp part of their columns."""
        place = rank % (self.tp * self.ep)
        here = even_splits(len(self.slot_map), self.ep)[place // self.tp]
        lo, hi = even_splits(WIDE, self.tp)[place % self.tp]
        held = list(self.slot_map[slice(*here)])
        params = {
            "e.router.weight": self.router,
            "e.experts.gate_up.weight": self.gate_up[held][:, :, lo:hi].flatten(0, 2),
            "e.experts.down.weight": self.down[held][:, :, lo:hi].flatten(0, 1),
        }
        return Experts(params, "e", self.moe, self.slot_map, here, self.ops)

    def boundaries(self, form: str) -> dict[str, Boundary]:
        size = self.tp * self.ep
        takes, gives = (full(size), addends(size)) if form == "all_gather" else (full(1), full(1))
        if size == 1:
            takes = gives = self.stream

        def boundary(name: str, src: Placement, dst: Placement, width: int) -> Boundary:
            return Boundary(name, src, dst, width, "rows", "activation")

        return {
            "experts.in": boundary("experts.in", self.stream, takes, HIDDEN),
            "experts.choices": boundary("experts.choices", full(1), full(size), self.moe.top_k),
            "experts.out": boundary("experts.out", gives, self.stream, HIDDEN),
        }

    def dispatcher(self, form: str, transitions: Transitions) -> TokenDispatcher:
        if form == "all_gather":
            return AllGather(transitions)
        slots = tuple(hi - lo for lo, hi in even_splits(len(self.slot_map), self.ep))
        return AllToAll(transitions, RoutedBlock(self.tp, slots, self.moe.top_k))

    def run(self, form: str, x: Tensor, rows: Sequence[int]) -> list[Tensor]:
        """Each rank's result for its part of x."""
        table, boundaries = RowTable(tuple(rows)), self.boundaries(form)
        lockstep = LockstepWorld(self.world, distinct_groups(boundaries.values(), self.world))

        def rank_run(rank: int, comm: LockstepComm) -> Tensor:
            dispatcher = self.dispatcher(form, Transitions(boundaries, comm))
            assert dispatcher.name == form
            return dispatcher.run(self.layer(rank), self.part(x, table, rank), table)

        return lockstep.run([partial(rank_run, rank) for rank in range(self.world)])

    def part(self, x: Tensor, table: RowTable, rank: int) -> Tensor:
        first = rank - rank % self.stream.size
        return x[table.start(first) : table.start(first + self.stream.size)].clone()

    def expected(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for row in range(len(x)):
            scores = torch.softmax(self.router @ x[row], -1)
            chosen = sorted(range(self.experts), key=lambda expert: (-float(scores[expert]), expert))[: self.moe.top_k]
            total = sum(float(scores[expert]) for expert in chosen)
            for expert in chosen:
                gate, up = (self.gate_up[expert] @ x[row]).unbind(0)
                hidden = gate / (1 + torch.exp(-gate)) * up
                out[row] += float(scores[expert]) / total * (self.down[expert] @ hidden)
        return out


CASES = [
    Case(tp, ep, blocks, stream, slot_map, top_k)
    for (tp, ep, blocks), (slot_map, top_k) in itertools.product(
        [(1, 1, 2), (1, 2, 1), (1, 3, 1), (1, 2, 2), (2, 1, 1), (2, 2, 1), (3, 2, 1), (1, 4, 1)],
        [((0, 1, 2, 3, 4), 2), ((0, 1, 2, 3, 0, 2, 0, 1), 3), ((0, 1, 2, 3), 4), ((2, 0, 1, 1, 0), 1)],
    )
    if len(slot_map) >= ep
    for stream in {1, tp * ep}
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", ["even", "uneven", "one rank", "empty"])
def test_rows_get_their_experts(form: str, shape: str) -> None:
    draw = random.Random(shape)
    for case in CASES:
        counts = {
            "even": [3] * case.world,
            "uneven": [draw.randrange(6) for _ in range(case.world)],
            "one rank": [0] * (case.world - 1) + [5],
            "empty": [0] * case.world,
        }[shape]
        x = torch.randn(sum(counts), HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        wanted, table = case.expected(x), RowTable(tuple(counts))
        for rank, found in enumerate(case.run(form, x, counts)):
            torch.testing.assert_close(found, case.part(wanted, table, rank), atol=1e-12, rtol=1e-12)


def test_an_exchange_adds_alike_in_any_batch_and_on_any_rank() -> None:
    """A row's bits do not depend on the rows beside it, on its owner, or on which replica answers."""
    case = Case(1, 3, 1, 1, (0, 1, 2, 3, 0, 1, 2, 0, 1), 3)
    x = torch.randn(9, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = torch.cat(case.run("all_to_all", x, [3, 3, 3]))
    for row, owner in itertools.product(range(9), range(3)):
        alone = case.run("all_to_all", x[row : row + 1], [int(rank == owner) for rank in range(3)])
        assert torch.equal(alone[owner][0], together[row])
    moved = Case(1, 3, 1, 1, (3, 0, 1, 2, 1, 0, 0, 2, 3), 3)
    moved.router, moved.gate_up, moved.down = case.router, case.gate_up, case.down
    assert torch.equal(torch.cat(moved.run("all_to_all", x, [2, 7, 0])), together)
