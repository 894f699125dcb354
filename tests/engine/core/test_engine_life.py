"""The life of a request: stop conditions, aborts, errors, dp groups, counters."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.core.paged_fake import PagedFake, reference
from tests.engine.core.state_checks import check_engine
from weft.base.errors import PeerError
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupResult, Sampled, StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.outputs import RequestOutput

CONFIG = EngineConfig(max_model_len=40, max_num_seqs=8, max_num_batched_tokens=16, block_size=4)
VOCAB = 1_000


def made(dp: int = 1, num_blocks: int = 200, eos: tuple[int, ...] = ()) -> tuple[Engine, PagedFake]:
    fake = PagedFake(CONFIG, num_blocks, dp, VOCAB)
    return Engine(fake, CONFIG, eos, vocab_size=VOCAB), fake


def drained(engine: Engine) -> list[RequestOutput]:
    """All outputs until nothing is left."""
    outputs: list[RequestOutput] = []
    for _ in range(2_000):
        if not engine.has_work:
            break
        outputs += engine.step()
        if engine.failure is None:
            check_engine(engine)
    return outputs


def ids_of(outputs: list[RequestOutput], request_id: str, index: int = 0) -> list[int]:
    wanted = [output for output in outputs if (output.request_id, output.index) == (request_id, index)]
    return [token for output in wanted for token in output.new_token_ids]


def plain(prompt: list[int], count: int, seed: int) -> list[int]:
    return reference(prompt, seed, SamplingParams(max_tokens=count), (), 1_000, VOCAB)[0]


# -- stop conditions


def ending(params: SamplingParams, eos: tuple[int, ...] = (), prompt_len: int = 3) -> tuple[str, object, int]:
    engine, _ = made(eos=eos)
    engine.add_request("a", [1] * prompt_len, params)
    last = drained(engine)[-1]
    return str(last.finish_reason), last.stop_reason, last.output_tokens


def test_a_paused_request_holds_nothing_and_goes_on_where_it_was() -> None:
    config = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32, block_size=4)
    alone, _ = [], (engine := Engine(PagedFake(config, 40), config, ()))
    params = SamplingParams(max_tokens=9, ignore_eos=True, seed=3)
    engine.add_request("a", [1, 2, 3, 4, 5], params)
    while engine.has_work:
        alone += [token for output in engine.step() for token in output.new_token_ids]
    engine = Engine(PagedFake(config, 40), config, ())
    engine.add_request("a", [1, 2, 3, 4, 5], params)
    got = [token for _ in range(4) for output in engine.step() for token in output.new_token_ids]
    engine.pause("a")
    assert not engine.has_work and list(engine.step()) == []
    assert (engine.stats().total.blocks_used, engine.stats().total.running) == (0, 0)
    engine.add_request("b", [7], SamplingParams(max_tokens=2, ignore_eos=True))
    while engine.has_work:
        assert all(output.request_id == "b" for output in engine.step())
    engine.resume("a")
    while engine.has_work:
        got += [token for output in engine.step() for token in output.new_token_ids]
    assert got == alone and engine.stats().total.preemptions == 0


def test_a_paused_request_can_be_aborted() -> None:
    config = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32, block_size=4)
    engine = Engine(PagedFake(config, 40), config, ())
    engine.add_request("a", [1, 2, 3], SamplingParams(max_tokens=9, ignore_eos=True))
    engine.step()
    engine.pause("a")
    assert engine.abort("a")
    assert [output.finish_reason for output in engine.step()] == ["abort"] and not engine.has_work


def test_what_has_run_and_what_waits() -> None:
    config = EngineConfig(max_model_len=64, max_num_seqs=1, max_num_batched_tokens=32, block_size=4)
    engine = Engine(PagedFake(config, 40), config, ())
    for name in ("runs", "waits"):
        engine.add_request(name, [1, 2, 3], SamplingParams(max_tokens=9, ignore_eos=True))
    engine.step()
    assert engine.has_run("runs") and not engine.has_run("waits") and engine.has_run("unknown")


def test_max_tokens_and_the_context_end_with_length() -> None:
    assert ending(SamplingParams(max_tokens=5, seed=1)) == ("length", None, 5)
    assert ending(SamplingParams(max_tokens=99, seed=1), prompt_len=35) == ("length", None, 5)
    assert ending(SamplingParams(max_tokens=None, seed=1), prompt_len=35) == ("length", None, 5)


def test_end_of_sequence_ends_with_stop_unless_ignored() -> None:
    third = plain([1] * 3, 9, 1)[2]
    assert ending(SamplingParams(max_tokens=9, seed=1), (third,)) == ("stop", None, 3)
    assert ending(SamplingParams(max_tokens=9, seed=1, ignore_eos=True), (third,)) == ("length", None, 9)


def test_a_stop_token_ends_with_its_id_even_where_end_of_sequence_is_ignored() -> None:
    third = plain([1] * 3, 9, 1)[2]
    params = SamplingParams(max_tokens=9, seed=1, stop_token_ids=(third,), ignore_eos=True)
    assert ending(params) == ("stop", third, 3)
    assert ending(params, (third,)) == ("stop", third, 3)


def test_nothing_stops_before_min_tokens() -> None:
    answer = plain([1] * 3, 9, 1)
    stops = (answer[1], answer[4])
    assert ending(SamplingParams(max_tokens=9, seed=1, stop_token_ids=stops, min_tokens=3)) == ("stop", answer[4], 5)
    assert ending(SamplingParams(max_tokens=9, seed=1, stop_token_ids=stops, min_tokens=2)) == ("stop", answer[1], 2)
    assert ending(SamplingParams(max_tokens=9, seed=1, min_tokens=6), stops) == ("length", None, 9)


def test_a_stop_token_on_the_last_place_is_a_stop() -> None:
    answer = plain([1] * 3, 5, 1)
    assert ending(SamplingParams(max_tokens=5, seed=1), (answer[4],)) == ("stop", None, 5)


# -- the caller ends it


def test_a_stop_string_ends_one_output_and_the_others_go_on() -> None:
    engine, _ = made()
    engine.add_request("a", [1, 2, 3], SamplingParams(n=3, max_tokens=6, seed=4))
    outputs = [*engine.step(), *engine.step()]
    assert engine.stop_request("a", "\n\n", index=1)
    assert not engine.stop_request("a", "\n\n", index=1) and not engine.stop_request("b", "x")
    outputs += drained(engine)
    ends = {output.index: output for output in outputs if output.finish_reason}
    assert {index: (str(end.finish_reason), end.stop_reason) for index, end in ends.items()} == {
        0: ("length", None),
        1: ("stop", "\n\n"),
        2: ("length", None),
    }
    assert len(ids_of(outputs, "a", 0)) == len(ids_of(outputs, "a", 2)) == 6 > ends[1].output_tokens


@pytest.mark.parametrize("steps", range(5))
def test_an_abort_in_any_state_gives_every_block_back(steps: int) -> None:
    engine, fake = made(num_blocks=10)
    engine.add_request("old", [7] * 20, SamplingParams(max_tokens=12, seed=1))
    engine.add_request("gone", [8] * 20, SamplingParams(n=2, max_tokens=12, seed=2))
    outputs = [output for _ in range(steps) for output in engine.step()]
    assert engine.abort("gone")
    check_engine(engine)
    assert not engine.abort("gone")
    outputs += drained(engine)
    ends = [(output.index, str(output.finish_reason)) for output in outputs if output.request_id == "gone"]
    assert [end for end in ends if end[1] != "None"] == [(0, "abort"), (1, "abort")]
    assert ids_of(outputs, "old") == plain([7] * 20, 12, 1)
    assert engine.stats().total.blocks_used == 0 and fake.steps > 0


def test_an_abort_of_a_preempted_request() -> None:
    engine, _ = made(num_blocks=8)
    engine.add_request("old", [7] * 10, SamplingParams(max_tokens=16, seed=1))
    engine.add_request("young", [8] * 10, SamplingParams(max_tokens=16, seed=2))
    outputs = list[RequestOutput]()
    while engine.has_work and not engine.stats().total.preemptions:
        outputs += engine.step()
    assert engine.stats().total.waiting == 1 and engine.abort("young")
    outputs += drained(engine)
    assert ids_of(outputs, "old") == plain([7] * 10, 16, 1)
    assert ids_of(outputs, "young") == plain([8] * 10, 16, 2)[: len(ids_of(outputs, "young"))]


def test_an_engine_with_aborted_requests_only_reports_them_without_a_step() -> None:
    engine, fake = made()
    engine.add_request("a", [1], SamplingParams())
    engine.abort("a")
    assert engine.has_work
    assert [str(output.finish_reason) for output in engine.step()] == ["abort"]
    assert fake.steps == 0 and not engine.has_work and list(engine.step()) == []


# -- errors


def test_logits_that_are_not_finite_end_their_request_and_leave_its_neighbours() -> None:
    engine, fake = made()
    fake.poison = {2: 3}
    for seed in (1, 2, 3):
        engine.add_request(f"r{seed}", [seed] * 6, SamplingParams(max_tokens=8, seed=seed))
    outputs = drained(engine)
    end = next(output for output in outputs if output.request_id == "r2" and output.finish_reason)
    assert (str(end.finish_reason), end.error, end.new_token_ids) == ("error", "logits are not finite", [])
    assert ids_of(outputs, "r2") == plain([2] * 6, 3, 2)
    for seed in (1, 3):
        assert ids_of(outputs, f"r{seed}") == plain([seed] * 6, 8, seed)


def test_what_a_failed_request_computed_is_not_shared_afterwards() -> None:
    engine, fake = made()
    fake.poison = {2: 1}
    engine.add_request("bad", [5] * 10, SamplingParams(seed=2))
    drained(engine)
    assert engine.stats().total.blocks_cached == 0
    engine.add_request("good", [5] * 10, SamplingParams(seed=3, max_tokens=1))
    assert drained(engine)[0].cached_tokens == 0


def test_a_dead_rank_ends_every_request_and_the_engine() -> None:
    engine, fake = made(dp=2)
    fake.fail_at = 2
    engine.add_request("a", [1] * 20, SamplingParams(n=2))
    engine.add_request("b", [2], SamplingParams())
    engine.add_request("aborted", [2], SamplingParams())
    outputs = [*engine.step(), *engine.step()]
    engine.abort("aborted")
    last = engine.step()
    ends = sorted((output.request_id, output.index, str(output.finish_reason)) for output in last)
    assert ends == [("a", 0, "error"), ("a", 1, "error"), ("aborted", 0, "abort"), ("b", 0, "error")]
    assert all("rank 1 (dp 0, tp 1) died" in (output.error or "") for output in last if output.finish_reason == "error")
    assert outputs and engine.failure == "rank 1 (dp 0, tp 1) died of signal 9"
    assert not engine.has_work and list(engine.step()) == []
    with pytest.raises(PeerError, match="the engine has stopped: rank 1"):
        engine.add_request("c", [1], SamplingParams())


class WrongSlots(PagedFake):
    """Answers of another plan."""

    def _step(self, plan: StepPlan) -> StepResult:
        return StepResult(plan.index, [GroupResult(runs=[Sampled(7, 1)]) for _ in plan.groups])


def test_results_of_another_plan_end_the_engine() -> None:
    engine = Engine(WrongSlots(CONFIG, 10), CONFIG, ())
    engine.add_request("a", [1], SamplingParams())
    (output,) = engine.step()
    assert str(output.finish_reason) == "error" and "results of step 0 are not those" in (engine.failure or "")


class OneWrongGroup(PagedFake):
    """The second group's results are another plan's."""

    def _step(self, plan: StepPlan) -> StepResult:
        result = super()._step(plan)
        return StepResult(result.index, [result.groups[0], GroupResult(runs=[Sampled(7, 1)])])


def test_an_output_that_ended_in_a_step_that_failed_half_way_is_an_error_once() -> None:
    engine = Engine(OneWrongGroup(CONFIG, 10, 2), CONFIG, ())
    for name in "ab":
        engine.add_request(name, [1], SamplingParams(max_tokens=1))
    assert [(output.request_id, str(output.finish_reason)) for output in engine.step()] == [
        ("a", "error"),
        ("b", "error"),
    ]
    stats = engine.stats().total
    assert (stats.finished, stats.waiting, stats.running) == (2, 0, 0) and not engine.has_work


# -- groups


def groups_of(fake: PagedFake) -> list[list[int]]:
    """Seeds admitted by each group, over all steps."""
    plans = [msgspec.json.decode(plan, type=StepPlan) for plan in fake.plans or ()]
    return [
        [admit.seed for plan in plans for admit in plan.groups[group].new_requests] for group in range(len(fake.groups))
    ]


def test_a_request_goes_to_the_group_with_the_most_cached_less_queued_tokens() -> None:
    engine, fake = made(dp=3)
    fake.plans = []
    for seed, length in ((0, 9), (1, 5), (2, 7), (3, 1), (4, 1)):
        engine.add_request(f"r{seed}", [seed] * length, SamplingParams(seed=seed, max_tokens=1))
    drained(engine)  # queued: 9 5 7, then 9 6 7, then 9 7 7
    assert groups_of(fake) == [[0], [1, 3, 4], [2]]
    engine.add_request("same", [2] * 9, SamplingParams(seed=5, max_tokens=1))
    engine.add_request("tie", [9], SamplingParams(seed=6, max_tokens=1))
    drained(engine)
    assert groups_of(fake) == [[0, 6], [1, 3, 4], [2, 5]]


def test_a_long_queue_outweighs_a_cached_prefix() -> None:
    engine, fake = made(dp=2)
    engine.add_request("first", [3] * 9, SamplingParams(seed=1, max_tokens=1))
    drained(engine)
    fake.plans = []
    engine.add_request("long", [3] * 9 + [4] * 20, SamplingParams(seed=2))
    engine.add_request("same", [3] * 9, SamplingParams(seed=3))
    drained(engine)
    assert groups_of(fake) == [[2], [3]]


def test_running_requests_count_as_queued() -> None:
    engine, fake = made(dp=2)
    fake.plans = []
    for seed in range(4):
        engine.add_request(f"r{seed}", [seed], SamplingParams(seed=seed))
        engine.step()
    assert groups_of(fake) == [[0, 2], [1, 3]]


def test_idle_groups_join_with_no_runs() -> None:
    engine, fake = made(dp=3)
    fake.plans = []
    engine.add_request("a", [1] * 20, SamplingParams(max_tokens=2, n=2))
    drained(engine)
    plans = [msgspec.json.decode(plan, type=StepPlan) for plan in fake.plans]
    assert [plan.index for plan in plans] == list(range(len(plans)))
    assert all(len(plan.groups) == 3 and not plan.groups[1].num_rows and not plan.groups[2].num_rows for plan in plans)


# -- what is reported


def test_logprobs_come_with_their_token() -> None:
    engine, _ = made()
    engine.add_request("a", [1], SamplingParams(max_tokens=2, logprobs=3))
    engine.add_request("b", [1], SamplingParams(max_tokens=2))
    outputs = drained(engine)
    for output in outputs:
        assert [entry.token_id for entry in output.logprobs] == (
            output.new_token_ids if output.request_id == "a" else []
        )
    assert [len(entry.top) for output in outputs for entry in output.logprobs] == [3, 3]


def test_counters_add_up() -> None:
    engine, fake = made(dp=2, num_blocks=12)
    for seed in range(6):
        engine.add_request(f"r{seed}", [seed % 2] * 9, SamplingParams(max_tokens=9, seed=seed))
    engine.step()
    stats = engine.stats()
    assert stats.total.running + stats.total.waiting == 6
    assert all(group.blocks_used + group.blocks_free == 12 for group in stats.groups)
    drained(engine)
    total = engine.stats().total
    assert (total.prompt_tokens, total.generated_tokens, total.finished) == (54, 54, 6)
    assert total.computed_tokens == sum(fake.computed_rows) and engine.stats().steps == fake.steps
    assert total.queried_tokens - total.cached_tokens + total.generated_tokens - 6 >= total.computed_tokens
    assert total.blocks_used == 0 and 0 < total.blocks_cached <= total.blocks_free == 24
