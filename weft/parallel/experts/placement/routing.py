"""The routing table of one layer: from an expert to its slots, and which replica serves which row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from weft.parallel.experts.statistics.loads import IntArray


@dataclass(frozen=True, eq=False, slots=True)
class RoutingTable:
    """log2phy int64 [experts, most replicas]: slots of each expert, ascending, -1 where it has no more; counts
    [experts]."""

    log2phy: IntArray
    counts: IntArray

    @classmethod
    def build(cls, phy2log: IntArray, experts: int) -> RoutingTable:
        """From the expert of each slot, [slots]."""
        counts = np.bincount(phy2log, minlength=experts).astype(np.int64)
        slots = np.argsort(phy2log, kind="stable")
        first = np.repeat(np.cumsum(counts) - counts, counts)
        table = np.full((experts, int(counts.max())), -1, dtype=np.int64)
        table[phy2log[slots], np.arange(len(slots)) - first] = slots
        return cls(table, counts)

    def replicas(self, expert: int) -> list[int]:
        """The slots of one expert, ascending."""
        return [int(slot) for slot in self.log2phy[expert, : self.counts[expert]]]

    def spread(self, experts: IntArray, offset: int = 0) -> IntArray:
        """A slot for each routed row; experts int64 of any shape, -1 (a padded row) stays -1.

        The k-th row of an expert, in order, takes replica (k + offset) mod replicas: replicas of one expert differ by
        at most one row in a step, whatever the rows are. Ranks that choose apart from each other give different
        offsets.
        """
        flat = experts.ravel()
        real = flat >= 0
        rows = np.where(real, flat, 0)
        turn = (_occurrence(flat) + offset) % self.counts[rows]
        chosen = np.where(real, self.log2phy[rows, turn], -1)
        return cast(IntArray, chosen.reshape(experts.shape))


def _occurrence(values: IntArray) -> IntArray:
    """How many equal values stand before each one."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.searchsorted(ranked, ranked, side="left")
    found = np.empty(len(values), dtype=np.int64)
    found[order] = np.arange(len(values)) - starts
    return found
