"""What one group's steps carry: order, budgets, chunks, shared prefixes, preemption, and steps in flight."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, cast

import msgspec
import pytest

from tests.engine.core.paged_fake import PagedFake
from tests.engine.core.simulation import Simulation, World
from tests.engine.core.state_checks import check_engine
from weft.base.errors import WeftError
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupPlan, GroupResult, Sampled, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.admission import Admission
from weft.engine.core.engine import Engine
from weft.engine.core.kv_cache import block_hashes
from weft.engine.core.limits import limits_of
from weft.engine.core.outputs import RequestOutput
from weft.engine.core.request import Request
from weft.engine.core.scheduler.scheduler import Scheduler
from weft.engine.core.waiting_queue import WaitingQueue

Rows = list[tuple[int, int]]
ENGINE = block_hashes.__file__.removesuffix("kv_cache/block_hashes.py")


class Bench:
    """An engine over the fake, whose plans can be read."""

    def __init__(self, num_blocks: int = 1_000, dp: int = 1, **fields: Any) -> None:
        settings = {"max_model_len": 4096, "max_num_seqs": 8, "max_num_batched_tokens": 16, "block_size": 4}
        config = EngineConfig(**{**settings, **fields})
        self.fake = PagedFake(config, num_blocks, dp)
        self.engine = Engine(self.fake, config, ())
        self.names = itertools.count()

    def add(self, prompt: Sequence[int], max_tokens: int = 8, **params: Any) -> str:
        name = f"r{next(self.names)}"
        self.engine.add_request(name, prompt, SamplingParams(max_tokens=max_tokens, **params))
        return name

    def plan(self, group: int = 0) -> GroupPlan:
        """Runs a step; the group's part of its plan."""
        self.fake.plans = []
        self.engine.step()
        assert self.engine.failure is None, self.engine.failure
        check_engine(self.engine)
        return msgspec.json.decode(self.fake.plans[0], type=StepPlan).groups[group] if self.fake.plans else GroupPlan()

    def rows(self, group: int = 0) -> Rows:
        """Runs a step; (start, count) of each run."""
        return [(run.start, run.count) for run in self.plan(group).every_run()]

    @property
    def busy(self) -> bool:
        assert self.fake.steps < 5_000
        return self.engine.has_work

    def finish(self) -> None:
        while self.busy:
            self.plan()


def prompt_of(length: int, salt: int = 0) -> list[int]:
    return [(position * 7 + salt * 13 + 1) % 997 for position in range(length)]


# -- rows of a step


def test_a_prompt_is_cut_into_chunks_of_the_budget_and_only_its_last_row_is_sampled() -> None:
    bench = Bench()
    bench.add(prompt_of(40), max_tokens=2)
    plans = [bench.plan() for _ in range(4)]
    assert [[(run.start, run.count, run.sample) for run in plan.every_run()] for plan in plans] == [
        [(0, 16, False)],
        [(16, 16, False)],
        [(32, 8, True)],
        [(40, 1, True)],
    ]
    assert [len(plan.new_requests) for plan in plans] == [1, 0, 0, 0]
    assert plans[2].runs[0].ids == prompt_of(40)[32:] and plans[3].every_run()[0].ids == []
    assert [plan.every_run()[0].output_pos for plan in plans] == [0, 0, 0, 1]
    # the whole table was sent with the first chunk: only new blocks are sent later
    assert [(run.known, len(run.blocks)) for plan in plans for run in plan.every_run()] == [
        (0, 10),
        (10, 0),
        (10, 0),
        (10, 1),
    ]


def test_one_step_carries_decode_rows_then_running_prefills_then_new_requests() -> None:
    bench = Bench()
    bench.add(prompt_of(5))
    bench.add(prompt_of(20, 1))
    assert bench.rows() == [(0, 5), (0, 11)]
    bench.add(prompt_of(30, 2))
    assert bench.rows() == [(5, 1), (11, 9), (0, 6)]
    assert bench.rows() == [(6, 1), (20, 1), (6, 14)]


def test_rows_never_exceed_the_budget_nor_runs_the_slots() -> None:
    bench = Bench(max_num_seqs=3, max_num_batched_tokens=5)
    for salt in range(7):
        bench.add(prompt_of(9, salt), max_tokens=4)
    while bench.busy:
        plan = bench.plan()
        assert plan.num_rows <= 5 and len(plan.every_run()) <= 3
    assert bench.engine.stats().total.finished == 7


def test_a_budget_full_of_decode_rows_still_leaves_a_prefill_one_row() -> None:
    bench = Bench(max_num_seqs=4, max_num_batched_tokens=4)
    for salt in range(3):
        bench.add(prompt_of(1, salt), max_tokens=50)
    bench.plan()
    bench.add(prompt_of(6, 9), max_tokens=1)
    assert [bench.rows()[-1] for _ in range(6)] == [(position, 1) for position in range(6)]


def test_the_older_prefill_goes_first() -> None:
    bench = Bench()
    bench.add(prompt_of(30))
    bench.add(prompt_of(30, 1))
    assert [bench.rows() for _ in range(4)] == [[(0, 16)], [(16, 14), (0, 2)], [(30, 1), (2, 15)], [(31, 1), (17, 13)]]


# -- prefix cache


def test_64_requests_on_one_prefix_compute_it_once_per_group() -> None:
    for dp in (1, 2):
        bench = Bench(dp=dp, max_num_seqs=64, max_num_batched_tokens=256, block_size=16)
        shared = prompt_of(1000)
        for salt in range(64):
            bench.add([*shared, *prompt_of(8, salt + 1)], max_tokens=1)
        bench.finish()
        # 62 full blocks of 16 tokens are shared; each of the others computes what follows them, 16 of 1,008 tokens.
        sizes = [group.finished for group in bench.engine.stats().groups]
        assert sum(sizes) == 64 and all(size > 16 for size in sizes)
        assert bench.fake.computed_rows == [992 + 16 * size for size in sizes]
        assert [group.cached_tokens for group in bench.engine.stats().groups] == [992 * (size - 1) for size in sizes]


def test_a_request_waits_while_another_computes_its_next_full_block() -> None:
    bench = Bench()
    bench.add(prompt_of(40), max_tokens=1)
    bench.add(prompt_of(40), max_tokens=1)
    bench.add(prompt_of(3, 5), max_tokens=1)
    assert bench.rows() == [(0, 16)]
    assert bench.rows() == [(16, 16)]
    assert bench.rows() == [(32, 8), (0, 3)]
    assert bench.rows() == [(36, 4)]  # its last full block, for the logits of its last token
    assert not bench.engine.has_work


def test_a_waiting_request_does_not_hold_up_those_behind_it() -> None:
    bench = Bench()
    bench.add(prompt_of(26))
    bench.plan()
    bench.add(prompt_of(26), max_tokens=1)
    bench.add(prompt_of(5, 3), max_tokens=1)
    assert bench.rows() == [(16, 10), (0, 5)]
    assert bench.rows() == [(26, 1), (24, 2)]


def test_a_waiting_request_computes_the_prefix_itself_when_the_other_is_aborted() -> None:
    bench = Bench()
    first = bench.add(prompt_of(40))
    bench.add(prompt_of(40), max_tokens=1)
    bench.plan()
    bench.engine.abort(first)
    assert bench.rows() == [(16, 16)]
    bench.finish()


def test_output_blocks_are_shared_too() -> None:
    bench = Bench()
    name = bench.add(prompt_of(6), max_tokens=7)
    outputs = [token for _ in range(7) for output in bench.engine.step() for token in output.new_token_ids]
    assert name and len(outputs) == 7
    bench.add([*prompt_of(6), *outputs, 5], max_tokens=1)
    # 12 positions were computed and fill 3 blocks; the 7th output never was.
    assert bench.rows() == [(12, 2)]


def test_without_prefix_caching_everything_is_computed() -> None:
    bench = Bench(enable_prefix_caching=False)
    for _ in range(2):
        bench.add(prompt_of(8), max_tokens=1)
    bench.finish()
    assert bench.fake.computed_rows == [16] and bench.engine.stats().total.cached_tokens == 0
    assert bench.engine.stats().total.blocks_cached == 0


def test_the_last_token_is_computed_even_if_all_blocks_are_cached() -> None:
    bench = Bench()
    for _ in range(2):
        bench.add(prompt_of(8), max_tokens=1)
        bench.finish()
    assert bench.fake.computed_rows == [8 + 4]


def test_a_cached_prefix_is_reported_with_the_output() -> None:
    bench = Bench()
    bench.add(prompt_of(8), max_tokens=1)
    bench.finish()
    bench.add(prompt_of(9), max_tokens=1)
    (output,) = bench.engine.step()
    assert (output.prompt_tokens, output.cached_tokens, output.output_tokens) == (9, 8, 1)


@pytest.mark.parametrize("leaves", ["at its length", "aborted"])
def test_an_answer_is_for_others_once_its_request_has_left(leaves: str) -> None:
    """The next turn of a chat finds all full blocks; while the answer grows, only its prompt's are offered."""
    bench = Bench(max_num_batched_tokens=64)
    name, answer = bench.add(prompt_of(8), max_tokens=12 if leaves == "at its length" else 100), list[int]()
    while len(answer) < 12:
        answer += [token for output in bench.engine.step() for token in output.new_token_ids]
        if len(answer) == 11:
            bench.add([*prompt_of(8), *answer, 1, 2], max_tokens=1)
    bench.engine.abort(name)
    bench.finish()
    bench.add([*prompt_of(8), *answer[:12], 1, 2], max_tokens=1)
    bench.finish()
    cached = bench.engine.stats().total.cached_tokens
    assert cached == 8 + 16  # of the 20 tokens 19 are computed: four full blocks of four


def test_outputs_of_one_request_share_its_prompt() -> None:
    bench = Bench(max_num_batched_tokens=64)
    bench.add(prompt_of(30), max_tokens=3, n=4, seed=1)
    bench.finish()
    assert bench.fake.computed_rows == [30 + 3 * 2 + 4 * 2]
    assert bench.engine.stats().total.prompt_tokens == 30


# -- preemption


def test_kv_for_3_of_16_requests_gives_the_tokens_of_an_unconstrained_run() -> None:
    answers = {}
    for num_blocks in (15, 1_000):
        bench = Bench(num_blocks, max_num_seqs=16, max_num_batched_tokens=64)
        for salt in range(16):
            bench.add(prompt_of(10, salt), max_tokens=10, seed=salt)
        outputs: dict[str, list[int]] = {}
        preempted: dict[str, int] = {}
        while bench.busy:
            for output in bench.engine.step():
                outputs.setdefault(output.request_id, []).extend(output.new_token_ids)
                preempted[output.request_id] = output.preemptions
            check_engine(bench.engine)
        answers[num_blocks] = outputs
        stats = bench.engine.stats().total
        assert stats.preemptions == sum(preempted.values()) and preempted["r0"] == 0
        assert (stats.preemptions > 0) == (num_blocks == 15)
    assert answers[15] == answers[1_000] and all(len(ids) == 10 for ids in answers[15].values())


def test_the_youngest_is_preempted_and_comes_back_before_those_who_arrived_later() -> None:
    bench = Bench(num_blocks=6)
    for salt in range(3):
        bench.add(prompt_of(7, salt), max_tokens=8)
    bench.add(prompt_of(3, 9), max_tokens=1)
    order, preempted = [], []
    while bench.busy:
        for output in bench.engine.step():
            if output.finish_reason:
                order.append(output.request_id)
                preempted += [output.request_id] * bool(output.preemptions)
    assert order[0] == "r0" and order.index("r3") > order.index("r0")
    assert preempted and "r0" not in preempted


def test_a_resumed_request_is_sent_its_outputs_and_samples_the_next_one() -> None:
    bench = Bench(num_blocks=5)
    bench.add(prompt_of(6), max_tokens=8)
    bench.add(prompt_of(6, 1), max_tokens=8)
    new_requests = []
    while bench.busy:
        plan = bench.plan()
        new_requests += [
            (admit, run) for admit in plan.new_requests for run in plan.every_run() if run.slot == admit.slot
        ]
    resumed, run = new_requests[-1]
    assert resumed.prompt_ids == prompt_of(6, 1) and len(resumed.output_ids) > 0
    assert run.output_pos == len(resumed.output_ids) and run.ids[-1] == resumed.output_ids[-1]
    assert bench.engine.stats().total.preemptions == 1


def test_one_who_cannot_fit_now_is_not_overtaken() -> None:
    bench = Bench(num_blocks=8, max_num_batched_tokens=64)
    bench.add(prompt_of(20), max_tokens=6)
    bench.plan()
    bench.add(prompt_of(20, 1), max_tokens=1)
    bench.add(prompt_of(2, 2), max_tokens=1)
    assert all(len(bench.rows()) == 1 for _ in range(5))
    assert bench.rows() == [(0, 20), (0, 2)]


def test_a_new_request_leaves_each_running_request_a_block_to_grow() -> None:
    bench = Bench(num_blocks=5, max_num_batched_tokens=64)
    bench.add(prompt_of(6), max_tokens=3)
    bench.plan()
    bench.add(prompt_of(10, 1), max_tokens=1)
    assert bench.rows() == [(6, 1)]  # 3 blocks are free, and 3 are needed
    assert bench.rows() == [(7, 1)]
    assert bench.rows() == [(0, 10)]
    assert bench.engine.stats().total.preemptions == 0


def test_cached_tokens_of_an_output_are_those_of_its_first_admission() -> None:
    bench = Bench(num_blocks=7, max_num_batched_tokens=64)
    outputs = list[RequestOutput]()
    for salt in range(2):
        bench.add(prompt_of(10, salt), max_tokens=12)
    while bench.busy:
        outputs += bench.engine.step()
    assert {output.request_id for output in outputs if output.preemptions} == {"r1"}
    assert all(output.cached_tokens == 0 for output in outputs)
    assert bench.engine.stats().total.cached_tokens > 0


def test_only_a_claimed_run_that_begins_at_the_next_block_is_waited_for() -> None:
    queue, owner = WaitingQueue(), cast(Any, object())
    queue.claim(owner, [b"b", b"c", b"e"])
    digests = [b"a", b"b", b"c", b"d", b"e"]
    assert [queue.last_claimed(digests, start, 5) for start in range(5)] == [None, b"c", b"c", None, b"e"]
    assert queue.last_claimed(digests, 1, 2) == b"b" and queue.last_claimed(digests, 2, 2) is None


# -- steps in flight


def lone_scheduler(num_blocks: int = 8) -> tuple[Scheduler, Admission]:
    config = EngineConfig(max_model_len=64, max_num_seqs=2, max_num_batched_tokens=16, block_size=4)
    limits = limits_of(config, num_blocks)
    return Scheduler(limits), Admission(limits, frozenset(), None, 0)


def lone_request(scheduler: Scheduler, admission: Admission, arrival: int, length: int = 8) -> Request:
    (request,) = admission.build(f"r{arrival}", prompt_of(length, arrival), SamplingParams(), arrival, arrival)
    scheduler.add(request)
    return request


def test_blocks_and_slots_of_a_step_in_flight_are_not_reused_before_it_retires() -> None:
    scheduler, admission = lone_scheduler()
    gone, stays = (lone_request(scheduler, admission, arrival) for arrival in range(2))
    plan = scheduler.schedule(0)
    used = scheduler.blocks.num_available
    scheduler.remove(gone)
    assert gone.table == [] and plan.runs[0].blocks != []
    assert scheduler.blocks.num_available == used and not scheduler._slots
    outputs = scheduler.retire(0, GroupResult.of(plan, [Sampled(run.slot, 5) for run in plan.every_run()]))
    assert [output.request_id for output in outputs] == [stays.request_id]
    assert scheduler.blocks.num_available == used + 2 and len(scheduler._slots) == 1
    assert not scheduler._deferred_free


def test_a_departure_between_steps_frees_at_once() -> None:
    scheduler, admission = lone_scheduler()
    request = lone_request(scheduler, admission, 0)
    plan = scheduler.schedule(0)
    scheduler.retire(0, GroupResult(runs=[Sampled(plan.runs[0].slot, 5)]))
    scheduler.remove(request)
    assert scheduler.blocks.num_available == 8 and len(scheduler._slots) == 2


@pytest.mark.parametrize("sampled", ([], [Sampled(1, 5)], [Sampled(0, 5), Sampled(0, 5)]))
def test_results_that_are_not_the_plans_are_refused(sampled: list[Sampled]) -> None:
    scheduler, admission = lone_scheduler()
    lone_request(scheduler, admission, 0)
    scheduler.schedule(0)
    with pytest.raises(WeftError, match="results of step 0 are not those of step 0, slots"):
        scheduler.retire(0, GroupResult(runs=sampled))


# -- cost and determinism


def calls_of_a_step(engine: Engine) -> int:
    """Function calls, Python's and C's, that the engine's own modules make or receive in one step."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call") and frame.f_code.co_filename.startswith(ENGINE)

    sys.setprofile(count)
    try:
        engine.step()
    finally:
        sys.setprofile(None)
    return calls


def test_a_decode_step_costs_the_same_at_any_context() -> None:
    calls = {}
    for length in (95, 3_999):
        bench = Bench(max_num_batched_tokens=4096, block_size=16)
        bench.add(prompt_of(length), max_tokens=20)
        bench.plan()
        calls[length] = [calls_of_a_step(bench.engine) for _ in range(17)]
    assert sorted(calls[95]) == sorted(calls[3_999])


def test_each_block_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, whole = [], block_hashes.chain_digest

    def counted(parent: bytes, ids: Sequence[int]) -> bytes:
        hashed.append(len(ids))
        return whole(parent, ids)

    monkeypatch.setattr(block_hashes, "chain_digest", counted)
    bench = Bench(num_blocks=8)
    bench.add(prompt_of(10), max_tokens=15)
    bench.add(prompt_of(10, 1), max_tokens=15)
    while bench.busy:
        bench.engine.step()
    assert bench.engine.stats().total.preemptions > 0
    assert hashed == [4] * (2 * 6)


def test_a_second_run_makes_the_same_plans() -> None:
    def plans() -> list[bytes]:
        simulation = Simulation(World(num_blocks=14, dp=2), 3, check_state=False)
        simulation.fake.plans = []
        simulation.run(800)
        return simulation.fake.plans

    first = plans()
    assert len(first) > 300 and first == plans()


def test_a_lower_priority_number_goes_first_and_is_preempted_last() -> None:
    config = EngineConfig(max_model_len=64, max_num_seqs=2, max_num_batched_tokens=16, block_size=4)
    limits = limits_of(config, 6)
    admission = Admission(limits, frozenset(), None, 0)
    scheduler = Scheduler(limits)

    def add(name: str, arrival: int, priority: int) -> Request:
        params = SamplingParams(max_tokens=12, priority=priority)
        request = admission.build(name, [10 * arrival + place for place in range(5)], params, arrival, arrival)[0]
        scheduler.add(request)
        return request

    late, soon, first = add("late", 0, 5), add("soon", 1, 0), add("first", 2, -1)
    steps = 0
    while scheduler.has_work and steps < 100:
        plan = scheduler.schedule(steps)
        if steps == 0:
            assert soon.slot >= 0 and first.slot >= 0 and late.slot < 0
        answers = [Sampled(run.slot, 7) for run in plan.every_run() if run.sample]
        scheduler.retire(steps, GroupResult.of(plan, answers))
        steps += 1
    assert all(request.done for request in (late, soon, first)) and first.preemptions == 0 and soon.preemptions > 0
