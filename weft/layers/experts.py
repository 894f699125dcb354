"""Routed experts: the router, and the MLPs of the slots held here. Knows slots as numbers; no rank, no collective.

Shapes: N rows, H hidden, E experts, k choices of a row, S slots here, I intermediate columns here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.layers.base import Params, tensor, tensor_or_none
from weft.layout.placement import Interval
from weft.ops.base import Ops
from weft.ops.grouped import counted


class Experts:
    """One layer's experts over the slots `here` of `slot_map` (the expert of every slot of the block)."""

    def __init__(
        self, params: Params, name: str, moe: MoEConfig, slot_map: Sequence[int], here: Interval, ops: Ops
    ) -> None:
        self.ops, self.moe, self.here = ops, moe, here
        self.router, self.correction = (
            tensor(params, f"{name}.router.weight"),
            tensor_or_none(params, f"{name}.router.correction"),
        )
        count = here[1] - here[0]
        gate_up, down = tensor(params, f"{name}.experts.gate_up.weight"), tensor(params, f"{name}.experts.down.weight")
        self.gate_up, self.down = ops.expert_weights(
            gate_up.view(count, gate_up.shape[0] // count, gate_up.shape[1]),
            down.view(count, down.shape[0] // count, down.shape[1]),
        )
        most = len(slot_map) - moe.num_experts + 1
        self.replicas = torch.empty(moe.num_experts, dtype=torch.int64, device=self.router.device)
        self.slot_of = torch.empty(moe.num_experts, most, dtype=torch.int64, device=self.router.device)
        self.place(slot_map)
        self.tally: Tensor | None = None
        """Rows that chose each expert are added up here, [E], where somebody wants to know."""

    def place(self, slot_map: Sequence[int]) -> None:
        """From now on slot s holds expert slot_map[s]. The tables keep their memory: a recorded step reads it."""
        replicas, slot_of = _replicas(slot_map, self.moe.num_experts)
        self.replicas.copy_(replicas)
        self.slot_of.fill_(-1)[:, : slot_of.shape[1]].copy_(slot_of)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The weights of the slots here, in the form that they are computed with; dim 0 of each counts the slots."""
        return self.gate_up, self.down

    def forward(self, x_NH: Tensor) -> Tensor:
        """[N, H] -> addend [N, H]: the choices whose slot is here. Every rank of the block has the same rows."""
        experts, weights = self.route(x_NH)
        return self.ops.experts(x_NH, self.local(self.slots(experts)), weights, self.gate_up, self.down)

    def answers(self, x_NH: Tensor, slots_N: Tensor, weights_N: Tensor) -> Tensor:
        """One choice a row: [N, H] by the block's slot [N], which is here -> its answer [N, H], for `weigh`."""
        slots, weights = self.local(slots_N)[:, None], weights_N[:, None]
        return self.ops.expert_answers(x_NH, slots, weights, self.gate_up, self.down)[:, 0]

    def weigh(self, answers_NkH: Tensor, weights_Nk: Tensor) -> Tensor:
        """Sum of a row's answers, in the order of its choices: [N, H]."""
        return self.ops.weighted(answers_NkH, weights_Nk)

    def route(self, x_NH: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H] -> (experts [N, k] int64, weights [N, k])."""
        return self.ops.route(self.ops.linear(x_NH, self.router, None), self.correction, self.moe)

    def slots(self, experts_Nk: Tensor) -> Tensor:
        """The block's slot that answers each choice, for all rows of the block [N, k].

        The j-th row that chooses an expert in a step takes its replica j modulo their number: every rank of the block
        counts the same rows, and replicas share a step evenly.
        """
        flat = experts_Nk.flatten()
        order = torch.sort(flat, stable=True)
        counts = counted(flat, self.moe.num_experts)
        if self.tally is not None:
            self.tally += counts
        nth = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[order.values]
        turn = torch.empty_like(nth).index_copy_(0, order.indices, nth)
        return self.slot_of[flat, turn % self.replicas[flat]].view(experts_Nk.shape)

    def local(self, slots: Tensor) -> Tensor:
        """The block's slots as places among those here, -1 elsewhere."""
        lo, hi = self.here
        return torch.where((slots >= lo) & (slots < hi), slots - lo, -1)


def _replicas(slot_map: Sequence[int], num_experts: int) -> tuple[Tensor, Tensor]:
    """Per expert its number of slots, and per expert and replica the slot, filled up with -1."""
    slots: list[list[int]] = [[] for _ in range(num_experts)]
    for slot, expert in enumerate(slot_map):
        slots[expert].append(slot)
    most = max(map(len, slots))
    table = [found + [-1] * (most - len(found)) for found in slots]
    return torch.tensor([len(found) for found in slots]), torch.tensor(table)
