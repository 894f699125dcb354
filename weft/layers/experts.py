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
        self.replicas, self.slot_of = _replicas(slot_map, moe.num_experts, self.router.device)

    def forward(self, x_NH: Tensor) -> Tensor:
        """[N, H] -> addend [N, H]: the choices whose slot is here. Every rank of the block has the same rows."""
        experts, weights = self.route(x_NH)
        return self.ops.experts(x_NH, self.local(self.slots(experts)), weights, self.gate_up, self.down)

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
        nth = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[order.values]
        turn = torch.empty_like(nth).index_copy_(0, order.indices, nth)
        return self.slot_of[flat, turn % self.replicas[flat]].view(experts_Nk.shape)

    def local(self, slots: Tensor) -> Tensor:
        """The block's slots as places among those here, -1 elsewhere."""
        lo, hi = self.here
        return torch.where((slots >= lo) & (slots < hi), slots - lo, -1)


def _replicas(slot_map: Sequence[int], num_experts: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per expert its number of slots, and per expert and replica the slot, filled up with -1."""
    slots: list[list[int]] = [[] for _ in range(num_experts)]
    for slot, expert in enumerate(slot_map):
        slots[expert].append(slot)
    most = max(map(len, slots))
    table = [found + [-1] * (most - len(found)) for found in slots]
    return torch.tensor([len(found) for found in slots], device=device), torch.tensor(table, device=device)
