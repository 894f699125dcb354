"""Rows of logits of an attention block, as columns: the owner of each, and what to sample for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.base.step.plan import ScheduledRequest

Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SampledRows:
    """In the plan's order. `slots` [m]; `positions` [m]: tokens that the request had generated, -1 for a row that is
    only scored; `targets` [m]: the id that such a row is asked about (None: there is none such). The first `decodes`
    rows are the plan's decode rows."""

    slots: Column
    positions: Column
    targets: Column | None = None
    decodes: int = 0

    def __len__(self) -> int:
        return len(self.slots)

    def part(self, lo: int, hi: int) -> SampledRows:
        """Rows [lo, hi)."""
        if lo == 0 and hi == len(self.slots):
            return self
        targets = None if self.targets is None else self.targets[lo:hi]
        return SampledRows(self.slots[lo:hi], self.positions[lo:hi], targets, min(max(self.decodes - lo, 0), hi - lo))

    def take(self, index: Column) -> SampledRows:
        """The rows of these numbers, as rows of runs."""
        targets = None if self.targets is None else self.targets[index]
        return SampledRows(self.slots[index], self.positions[index], targets)

    def pairs(self) -> list[tuple[int, int]]:
        """(slot, position) of each row."""
        return list(zip(self.slots.tolist(), self.positions.tolist(), strict=True))


def sampled_rows(decodes: NDArray[np.int64], runs: Sequence[ScheduledRequest]) -> SampledRows:
    """The rows of `decodes`, columns [3, rows] as in the plan, then of each run its scored rows and its sampled row."""
    slots, positions, targets = [], [], []
    for run in runs:
        slots += [run.slot] * (len(run.targets) + run.sample)
        positions += [-1] * len(run.targets) + [run.output_pos] * run.sample
        targets += [*run.targets] + [0] * run.sample
    if not slots:
        return SampledRows(decodes[0], decodes[2], None, decodes.shape[1])
    scores = any(position < 0 for position in positions)
    return SampledRows(
        slots=np.concatenate((decodes[0], np.array(slots, np.int64))),
        positions=np.concatenate((decodes[2], np.array(positions, np.int64))),
        targets=np.concatenate((np.zeros_like(decodes[0]), np.array(targets, np.int64))) if scores else None,
        decodes=decodes.shape[1],
    )
