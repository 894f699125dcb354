"""Which slots answer for an expert: tables that keep their memory, so that a recorded step reads them as they are.

Knows slots as numbers of an expert block; no rank and no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.ops.reference.grouped import counted
from weft.parallel.layout.placement import Interval


@dataclass(slots=True)
class SlotTables:
    """replicas [E]: how many slots an expert has; slot_of [E, most]: which, then -1; int64. `here`: the slots of this
    rank. `tally` [E]: rows that chose each expert are added up there, unless it is None."""

    replicas: Tensor
    slot_of: Tensor
    here: Interval
    tally: Tensor | None = None

    @classmethod
    def of(cls, slot_map: Sequence[int], num_experts: int, here: Interval, device: torch.device) -> SlotTables:
        """Slot s holds expert slot_map[s]."""
        most = len(slot_map) - num_experts + 1
        replicas = torch.empty(num_experts, dtype=torch.int64, device=device)
        found = cls(replicas, torch.empty(num_experts, most, dtype=torch.int64, device=device), here)
        found.place(slot_map)
        return found

    def place(self, slot_map: Sequence[int]) -> None:
        """From now on slot s holds expert slot_map[s]."""
        slots: list[list[int]] = [[] for _ in range(len(self.replicas))]
        for slot, expert in enumerate(slot_map):
            slots[expert].append(slot)
        most = self.slot_of.shape[1]
        self.replicas.copy_(torch.tensor([len(found) for found in slots]))
        self.slot_of.copy_(torch.tensor([found + [-1] * (most - len(found)) for found in slots]))

    def slots(self, experts: Tensor) -> Tensor:
        """The block's slot that answers each choice, for all rows of the block [N, k].

        The j-th row that chooses an expert in a step takes its replica j modulo their number: every rank of the block
        counts the same rows, and replicas share a step evenly.
        """
        flat = experts.flatten()
        order = torch.sort(flat, stable=True)
        counts = counted(flat, len(self.replicas))
        if self.tally is not None:
            self.tally += counts
        nth = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[order.values]
        turn = torch.empty_like(nth).index_copy_(0, order.indices, nth)
        return self.slot_of[flat, turn % self.replicas[flat]].view(experts.shape)

    def local(self, slots: Tensor) -> Tensor:
        """The block's slots as places among those here, -1 elsewhere."""
        lo, hi = self.here
        return torch.where((slots >= lo) & (slots < hi), slots - lo, -1)
