"""From a step plan to what each rank runs of it: the rows of its own attention-dp group, and row tables of all ranks.

Pure numbers. The supervisor sends each rank its part, whose size does not grow with the other groups' work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from weft.base.errors import WeftError
from weft.base.step.plan import GroupPlan, RankPlan, StepPlan
from weft.parallel.layout.rows import KVOwners, RowTable, row_table, sampled_table

RunCounts = tuple[int, bool, int]
"""Of a run: its rows, whether the last is sampled, and how many are scored."""
GroupCounts = tuple[int, tuple[RunCounts, ...]]
"""Of a group: its decode rows, and the counts of its runs."""
Gathers = Callable[[int, int], bool]
"""Whether so many rows of a prompt, in a context of so many positions, gather its keys."""
SHAPES = 4096
"""Groups of different counts whose row tables are kept."""
WHOLE = KVOwners(1, 1, 1)
"""Each rank keeps all positions."""


def counts_of(group: GroupPlan) -> GroupCounts:
    """All that the places of a group's rows follow from."""
    return len(group.decodes), tuple([(run.count, run.sample, len(run.targets)) for run in group.runs])


def every_run(counts: GroupCounts) -> tuple[RunCounts, ...]:
    """Decode rows as runs, then the runs."""
    decodes, runs = counts
    return ((1, True, 0),) * decodes + runs


def sampled_rows_of(runs: Sequence[RunCounts]) -> list[int]:
    """Row numbers, inside the group, of the rows that are sampled. WeftError where those of a run are no neighbours:
    attention takes them for a run of their own."""
    rows: list[int] = []
    end = 0
    for count, sample, targets in runs:
        if sample and 0 < targets < count - 1:
            raise WeftError(f"a run of {count} rows with {targets} scored ones that end before the sampled one")
        rows += range(end, end + targets)
        end += count
        if sample:
            rows.append(end - 1)
    return rows


def rows_of_ranks(counts: GroupCounts, tp: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and sampled rows of each of the `tp` ranks of an attention block."""
    runs = every_run(counts)
    rows = row_table([sum(count for count, _, _ in runs)], tp)
    sampled, _ = sampled_table([sampled_rows_of(runs)], rows, tp)
    return rows.rows, sampled.rows


def cp_of_rows(group: GroupPlan, owners: KVOwners) -> bytes:
    """Of each row of the group, in the plan's order: the cp block that computes it, a byte each; none with cp 1."""
    if owners.cp == 1:
        return b""
    parts = [group.decodes.array()[1], *(np.arange(run.start, run.start + run.count) for run in group.runs)]
    return owners.cp_of(np.concatenate(parts)).astype(np.uint8).tobytes()


@dataclass(frozen=True, slots=True)
class RowsOfBlocks:
    """The rows of a group by the cp block that computes each. `rows_of[c]`: numbers of the rows of block c among the
    group's, `sampled_of[c]`: of its sampled rows among the group's sampled ones. `rows`, `sampled` and `offsets`: of
    the ranks of all the group's blocks, as of `sampled_table`."""

    rows_of: tuple[NDArray[np.int64], ...]
    sampled_of: tuple[NDArray[np.int64], ...]
    rows: RowTable
    sampled: RowTable
    offsets: tuple[tuple[int, ...], ...]


def rows_of_blocks(counts: GroupCounts, tp: int, cp: int, cp_of: bytes) -> RowsOfBlocks:
    """`cp_of`: as of `cp_of_rows`."""
    runs = every_run(counts)
    blocks = np.frombuffer(cp_of, np.uint8) if cp > 1 else np.zeros(sum(count for count, _, _ in runs), np.uint8)
    sampled = np.asarray(sampled_rows_of(runs), np.int64)
    rows_of = tuple((blocks == block).nonzero()[0] for block in range(cp))
    sampled_of = tuple((blocks[sampled] == block).nonzero()[0] for block in range(cp))
    within = [np.searchsorted(rows, sampled[own]).tolist() for rows, own in zip(rows_of, sampled_of, strict=True)]
    table = row_table(map(len, rows_of), tp)
    of_ranks, offsets = sampled_table(within, table, tp)
    return RowsOfBlocks(rows_of, sampled_of, table, of_ranks, offsets)


class RankPlans:
    """Parts of plans, for a stage whose attention blocks have `tp` ranks. `split(plan)[g]` is what every rank of group
    g runs. `owners`: of positions, where several ranks keep those of a request. `gathers`: which prompts gather keys,
    where any may."""

    def __init__(self, tp: int, owners: KVOwners = WHOLE, gathers: Gathers | None = None) -> None:
        self._owners, self._gathers = owners, gathers
        self._rows_of_ranks = lru_cache(SHAPES)(lambda counts: rows_of_ranks(counts, tp))
        self._rows_of_blocks = lru_cache(SHAPES)(lambda counts, cp_of: rows_of_blocks(counts, tp, owners.cp, cp_of))

    def split(self, plan: StepPlan) -> list[RankPlan]:
        """One part for each group."""
        rows: list[int] = []
        sampled: list[int] = []
        for group in plan.groups:
            own, own_sampled = self._rows_of(group)
            rows += own
            sampled += own_sampled
        tables = tuple(rows), () if sampled == rows else tuple(sampled)
        eager = self._runs_eagerly(plan)
        return [RankPlan(plan.index, *tables, group, plan.experts, plan.awaits, eager) for group in plan.groups]

    def _runs_eagerly(self, plan: StepPlan) -> bool:
        """Whether a prompt of any group gathers keys: step programs have no instruction for that."""
        gathers = self._gathers
        if gathers is None:
            return False
        return any(gathers(run.count, run.start + run.count) for group in plan.groups for run in group.runs)

    def _rows_of(self, group: GroupPlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and sampled rows of each rank of the group."""
        if self._owners.cp == 1:
            return self._rows_of_ranks(counts_of(group))
        found = self._rows_of_blocks(counts_of(group), cp_of_rows(group, self._owners))
        return found.rows.rows, found.sampled.rows
