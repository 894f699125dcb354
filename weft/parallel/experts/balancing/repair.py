"""Improves one layer's placement step by step, changing no more slots than allowed.

A step replaces an expert that has replicas to spare by one of the heaviest ranks' experts, or swaps two slots. The best
step is the one that lowers a high power of the ranks' loads most per slot that it changes; a slot that was changed
before costs nothing more. `allowed` holds every rule about where an expert may be placed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from weft.parallel.experts.statistics.loads import BoolArray, FloatArray, IntArray

HEAVIEST = 3
"""Number of heaviest ranks that each step tries to improve."""
POWERS = ((6.0,), (8.0, 32.0), (12.0, 32.0))
"""Exponents tried one after the other; a low one spreads the effort, a high one looks at the heaviest rank only."""
FREE_STEP = 0.3
"""Cost, in slots, of a step that changes no further slot."""
STEPS_PER_SLOT = 1.5
LEAST_GAIN = 1e-6


@dataclass(frozen=True, slots=True)
class RepairStep:
    """Slot (rank, slot) takes `expert`, or, where `other` is given, swaps its expert with slot `other`."""

    gain: float
    rank: int
    slot: int
    expert: int = -1
    other: tuple[int, int] | None = None


def repair(loads: FloatArray, start: IntArray, budget: int, allowed: BoolArray | None = None) -> IntArray:
    """The best placement found within `budget` changed slots of `start`; both [ranks, slots per rank], loads [experts].

    allowed [experts, ranks]: where an expert may stand. Two replicas of one expert on a rank are separated first. Never
    worse than `start`: fewer such duplicates, or as many and a lighter heaviest rank.
    """
    may = np.ones((len(loads), len(start)), dtype=np.bool_) if allowed is None else allowed
    unchanged = _Layer(loads, start, may)
    best, best_rank = start, (unchanged.duplicates, float(unchanged.totals.max()))
    for powers in POWERS:
        layer = _Layer(loads, start, may)
        layer.separate_duplicates(budget)
        for power in powers:
            layer.improve(power, budget)
        rank = (layer.duplicates, float(layer.totals.max()))
        if rank < best_rank:
            best, best_rank = layer.owners, rank
    return best


class _Layer:
    """The state of a search: owners [ranks, slots], counts [experts], totals [ranks] in units of the mean rank."""

    def __init__(self, loads: FloatArray, start: IntArray, allowed: BoolArray) -> None:
        self.start = start
        self.owners = start.copy()
        self.loads = loads / loads.sum() * len(start)
        self.counts = np.bincount(start.ravel(), minlength=len(loads)).astype(np.int64)
        self.allowed = allowed
        self.refresh()

    def refresh(self) -> None:
        """Recomputes everything that depends on owners and counts."""
        self.shares = self.loads / self.counts
        self.slot_loads = self.shares[self.owners]
        self.totals: FloatArray = self.slot_loads.sum(axis=1)
        self.held: IntArray = np.zeros(self.allowed.shape, dtype=np.int64)
        np.add.at(self.held, (self.owners, np.arange(len(self.owners))[:, None]), 1)
        self.on: BoolArray = self.held > 0
        self.changed = self.owners != self.start

    @property
    def duplicates(self) -> int:
        """Replicas that share a rank with another of their expert."""
        return int(np.maximum(self.held - 1, 0).sum())

    def separate_duplicates(self, budget: int) -> None:
        """Replaces replicas that share a rank with another of their expert, while the budget allows changes."""
        all_ranks = np.arange(len(self.owners))
        while self.duplicates and self.changed.sum() < budget:
            step = self.best_replacement(all_ranks, POWERS[0][0], 1, duplicates_only=True)
            if step.expert < 0 or not np.isfinite(step.gain):
                return
            self.take(step)

    def improve(self, power: float, budget: int) -> None:
        """Applies the best step until none helps."""
        for _ in range(int(STEPS_PER_SLOT * self.owners.size)):
            left = budget - int(self.changed.sum())
            heaviest = np.argsort(-self.totals, kind="stable")[:HEAVIEST]
            now = float((self.totals**power).sum())
            steps = [self.best_replacement(heaviest, power, left)]
            steps += [self.best_swap(int(rank), power, left) for rank in heaviest]
            best = max(steps, key=lambda step: step.gain)
            if best.gain <= LEAST_GAIN * now:
                return
            self.take(best)

    def take(self, step: RepairStep) -> None:
        """Applies the step."""
        here = (step.rank, step.slot)
        if step.other is None:
            self.counts[self.owners[here]] -= 1
            self.counts[step.expert] += 1
            self.owners[here] = step.expert
        else:
            self.owners[here], self.owners[step.other] = self.owners[step.other], self.owners[here]
        self.refresh()

    def best_replacement(
        self, heaviest: IntArray, power: float, left: int, duplicates_only: bool = False
    ) -> RepairStep:
        """Over all slots whose expert has another replica (on this rank, if duplicates_only), and all experts of
        `heaviest`."""
        may_leave = (self.counts[self.owners] > 1) & (self.changed | (left > 0))
        if duplicates_only:
            may_leave &= self.held[self.owners, np.arange(len(self.owners))[:, None]] > 1
        ranks, slots = np.nonzero(may_leave)
        if not len(ranks):
            return RepairStep(0.0, 0, 0)
        leaving, coming = self.owners[ranks, slots], np.unique(self.owners[heaviest])
        totals = self._after_replacing(ranks, leaving, coming)
        cost = (self.start[ranks, slots][:, None] != coming).astype(np.int64) - self.changed[ranks, slots][:, None]
        legal = ~self.on[coming][:, ranks].T & self.allowed[coming][:, ranks].T & (cost <= left)
        gain = (self.totals**power).sum() - (np.maximum(totals, 0) ** power).sum(axis=2)
        score = np.where(legal, gain / np.maximum(cost, FREE_STEP), -np.inf)
        slot, expert = np.unravel_index(int(score.argmax()), score.shape)
        return RepairStep(float(score[slot, expert]), int(ranks[slot]), int(slots[slot]), int(coming[expert]))

    def _after_replacing(self, ranks: IntArray, leaving: IntArray, coming: IntArray) -> FloatArray:
        """Loads of all ranks, [slots, coming, ranks], once `leaving` of each slot has made room for each of
        `coming`."""
        rows = np.arange(len(ranks))
        larger = self.loads[leaving] / (self.counts[leaving] - 1)
        without = self.totals + (larger - self.shares[leaving])[:, None] * self.held[leaving]
        without[rows, ranks] -= larger
        smaller = self.loads[coming] / (self.counts[coming] + 1)
        totals = without[:, None, :] - ((self.shares[coming] - smaller)[:, None] * self.held[coming])[None]
        totals[rows[:, None], np.arange(len(coming)), ranks[:, None]] += smaller
        return cast(FloatArray, totals)

    def best_swap(self, rank: int, power: float, left: int) -> RepairStep:
        """Over all pairs of a slot of `rank` and a slot of another rank."""
        mine = self.owners[rank]
        delta = self.slot_loads[rank][:, None, None] - self.slot_loads
        before = self.totals[rank] ** power + (self.totals**power)[None, :, None]
        here, there = self.totals[rank] - delta, self.totals[None, :, None] + delta
        gain = before - np.maximum(here, 0) ** power - np.maximum(there, 0) ** power
        cost = (mine[:, None, None] != self.start).astype(np.int64) + (self.owners != self.start[rank][:, None, None])
        cost -= self.changed[rank][:, None, None].astype(np.int64) + self.changed
        legal = ~self.on[mine][:, :, None] & ~self.on[self.owners, rank] & (cost <= left)
        legal &= self.allowed[mine][:, :, None] & self.allowed[self.owners, rank]
        score = np.where(legal, gain / np.maximum(cost, FREE_STEP), -np.inf)
        slot, other, theirs = np.unravel_index(int(score.argmax()), score.shape)
        return RepairStep(float(score[slot, other, theirs]), rank, int(slot), other=(int(other), int(theirs)))
