"""From a step plan to what each rank runs of it: the rows of its own attention-dp group, and row tables of all ranks.

Pure numbers. The supervisor sends each rank its part, whose size does not grow with the other groups' work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from weft.errors import WeftError
from weft.layout.rows import row_table, sampled_table
from weft.step.plan import GroupPlan, RankPlan, StepPlan

RunCounts = tuple[int, bool, int]
"""Of a run: its rows, whether the last is sampled, and how many are scored."""
GroupCounts = tuple[int, tuple[RunCounts, ...]]
"""Of a group: its decode rows, and the counts of its runs."""
SHAPES = 4096
"""Groups of different counts whose row tables are kept."""


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


class RankPlans:
    """Parts of plans, for a stage whose attention blocks have `tp` ranks. `split(plan)[g]` is what every rank of group
    g runs."""

    def __init__(self, tp: int) -> None:
        self._rows_of_ranks = lru_cache(SHAPES)(lambda counts: rows_of_ranks(counts, tp))

    def split(self, plan: StepPlan) -> list[RankPlan]:
        """One part for each group."""
        rows: list[int] = []
        sampled: list[int] = []
        for group in plan.groups:
            own, own_sampled = self._rows_of_ranks(counts_of(group))
            rows += own
            sampled += own_sampled
        tables = tuple(rows), () if sampled == rows else tuple(sampled)
        return [RankPlan(plan.index, *tables, group, plan.experts, plan.awaits) for group in plan.groups]
