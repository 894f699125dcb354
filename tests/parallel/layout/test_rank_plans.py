"""What a rank gets of a step: its own group's rows, and the tables that a look at the whole plan gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.base.step.experts import ExpertMove, ExpertWork
from weft.base.step.plan import DecodeRows, GroupPlan, ScheduledRequest, StepPlan
from weft.parallel.layout.rank_plans import RankPlans, counts_of, every_run, sampled_rows_of
from weft.parallel.layout.rows import row_table, sampled_table
from weft.runtime.ipc.messages import RunStep, pack, unpack_for_rank


def decoding(slots: int, start: int = 7) -> DecodeRows:
    return DecodeRows.of([ScheduledRequest(slot, start, 1, [], [], True, 1) for slot in range(slots)])


def run(slot: int, count: int, sample: bool, scored: int) -> ScheduledRequest:
    scored = min(scored, count - sample)
    if sample and 0 < scored < count - 1:
        scored = count - 1
    return ScheduledRequest(slot, 0, count, [5] * count, [1], sample, 0, [3] * scored)


RUNS = st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(0, 9)), max_size=4)
GROUPS = st.lists(st.tuples(st.integers(0, 7), RUNS), min_size=1, max_size=5)


@given(GROUPS, st.integers(1, 4))
def test_tables_are_those_of_the_whole_plan(groups: list[tuple[int, list[tuple[int, bool, int]]]], tp: int) -> None:
    plan = StepPlan(
        3,
        [GroupPlan([], [run(slot, *each) for slot, each in enumerate(runs)], decoding(n)) for n, runs in groups],
        ExpertWork([ExpertMove(1, 2, 3, 0, 1)]),
    )
    parts = RankPlans(tp).split(plan)
    every = [every_run(counts_of(group)) for group in plan.groups]
    rows = row_table([group.num_rows for group in plan.groups], tp)
    sampled, _ = sampled_table([sampled_rows_of(runs) for runs in every], rows, tp)
    for part, group in zip(parts, plan.groups, strict=True):
        assert (part.index, part.group, part.experts) == (3, group, plan.experts)
        assert (part.rows, part.sampled or part.rows) == (rows.rows, sampled.rows)
        assert unpack_for_rank(pack(RunStep(part))) == RunStep(part)


def test_a_part_does_not_grow_with_the_other_groups() -> None:
    """144 groups of 256 requests: each part has one group's columns, and a count for each rank."""
    plan = StepPlan(12345, [GroupPlan(decodes=decoding(256, 3000)) for _ in range(144)])
    columns = len(plan.groups[0].decodes.columns)
    for tp in (1, 4):
        (size,) = {len(pack(RunStep(part))) for part in RankPlans(tp).split(plan)}
        assert columns == 6144 and size < columns + 700
