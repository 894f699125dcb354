"""Late prompts do not delay requests that decode; a burst of prompts is computed before it decodes."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from weft.base.step.plan import GroupPlan, GroupResult, Sampled
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.admission import Admission
from weft.engine.core.limits import Limits
from weft.engine.core.request import Request
from weft.engine.core.scheduler.prefill_throttle import FEWEST, PrefillThrottle
from weft.engine.core.scheduler.scheduler import Scheduler

LIMITS = Limits(max_model_len=512, max_num_seqs=8, max_num_batched_tokens=256, block_size=16, num_blocks=256)


def learned(decode_s: float = 0.004, row_s: float = 0.0001, stretch: float = 2.0) -> PrefillThrottle:
    throttle = PrefillThrottle(stretch)
    throttle.observe(1, 0, decode_s)
    throttle.observe(0, 100, 100 * row_s)
    return throttle


def request_of(name: str, length: int) -> Request:
    admission = Admission(LIMITS, frozenset(), None, 0)
    params = SamplingParams(temperature=0.0, max_tokens=100)
    (found,) = admission.build(name, [ord(name[0])] * length, params, ord(name[0]), ord(name[0]))
    return found


class Steps:
    """A scheduler, and results that come at once."""

    def __init__(self, throttle: PrefillThrottle) -> None:
        self.scheduler, self.index = Scheduler(LIMITS, throttle), 0

    def step(self) -> list[int]:
        """Rows of each run."""
        plan: GroupPlan = self.scheduler.schedule(self.index)
        answers = [Sampled(run.slot, 1) for run in plan.every_run() if run.sample]
        self.scheduler.retire(self.index, GroupResult.of(plan, answers))
        self.index += 1
        return [run.count for run in plan.every_run()]


def test_costs_are_learned_and_give_the_number_of_rows() -> None:
    assert PrefillThrottle(2.0).prompt_rows() is None
    assert learned().prompt_rows() == 40
    assert learned(stretch=3.0).prompt_rows() == 80
    assert learned(stretch=0.0).prompt_rows() is None


def test_a_step_with_both_tells_what_a_row_costs() -> None:
    throttle = PrefillThrottle(2.0)
    throttle.observe(8, 0, 0.010)
    throttle.observe(8, 50, 0.015)
    assert throttle.prompt_rows() == 100


@example([(1, 0, 1.0), (0, 8, 1e-310)])
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 300), st.floats(0, 10)), max_size=30))
def test_never_fewer_rows_than_the_least(steps: list[tuple[int, int, float]]) -> None:
    throttle = PrefillThrottle(2.0)
    for step in steps:
        throttle.observe(*step)
    found = throttle.prompt_rows()
    assert found is None or found >= FEWEST


def test_a_late_prompt_is_read_in_parts() -> None:
    steps = Steps(learned())
    steps.scheduler.add(request_of("a", 20))
    assert steps.step() == [20]
    assert steps.step() == [1]
    steps.scheduler.add(request_of("b", 100))
    assert [steps.step() for _ in range(4)] == [[1, 40], [1, 40], [1, 20], [1, 1]]


def test_late_prompts_share_the_rows_of_a_step() -> None:
    steps = Steps(learned())
    steps.scheduler.add(request_of("a", 20))
    steps.step()
    steps.step()
    for name in "bc":
        steps.scheduler.add(request_of(name, 30))
    assert [steps.step() for _ in range(3)] == [[1, 30, 10], [1, 1, 20], [1, 1, 1]]


def test_a_burst_is_read_as_fast_as_steps_allow() -> None:
    """A request that arrived before the first one decoded is not throttled, whichever step it runs in."""
    steps = Steps(learned())
    for name in "abcd":
        steps.scheduler.add(request_of(name, 200))
    assert [steps.step() for _ in range(4)] == [[200, 56], [1, 144, 111], [1, 1, 89, 165], [1, 1, 1, 35]]


def test_who_comes_during_the_first_step_is_of_the_burst() -> None:
    steps = Steps(learned())
    steps.scheduler.add(request_of("a", 100))
    plan = steps.scheduler.schedule(0)
    steps.scheduler.add(request_of("b", 200))
    steps.scheduler.retire(0, GroupResult(runs=[Sampled(run.slot, 1) for run in plan.runs]))
    steps.index = 1
    assert steps.step() == [1, 200]


def test_without_a_limit_a_late_prompt_takes_the_step() -> None:
    steps = Steps(learned(stretch=0.0))
    steps.scheduler.add(request_of("a", 20))
    steps.step()
    steps.step()
    steps.scheduler.add(request_of("b", 200))
    assert steps.step() == [1, 200]


def test_chunks_take_as_long_as_each_other() -> None:
    """Products of a row cost as much as 100 keys: later chunks, with more keys before them, have fewer rows."""
    limits = replace(LIMITS, keys_per_row=100.0)
    scheduler = Scheduler(limits)
    scheduler.add(request_of("a", 500))
    counts, start, index = list[int](), 0, 0
    while start < 500:
        plan = scheduler.schedule(index)
        (run,) = plan.every_run()
        counts, start = [*counts, run.count], start + run.count
        scheduler.retire(index, GroupResult.of(plan, [Sampled(run.slot, 1)] if run.sample else []))
        index += 1
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    costs = [count * (100 + end - count / 2) for count, end in zip(counts, ends, strict=True)]
    assert counts[0] == 256 and counts[1] < 256
    assert all(0.98 * costs[0] < cost <= costs[0] for cost in costs[:-1])
