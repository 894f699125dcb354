"""Steps that C++ takes from frames give what the general path gives; what it must not take, it leaves to Python."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from msgspec.structs import replace

from tests.runtime.worker.decode_cases import (
    DRAWN,
    GREEDY,
    LAYOUTS,
    LIMITS,
    MANY,
    REQUESTS,
    SHARED,
    STAGED,
    VOCABULARY,
    Request,
    admitted,
    grown,
    serve,
    streams,
)
from tests.runtime.worker.following_cases import InFlight, Ranks, both_ways, grammars_of
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.waiting import until
from weft.base.errors import WeftError
from weft.base.settings import EngineConfig
from weft.base.step.plan import GRAMMAR_FAILED, GroupPlan, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.engine.core.executor import Executor
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.channel import ChannelClosed
from weft.runtime.ipc.messages import RunStep, StepDone, pack, unpack_from_rank


def frame_of(plan: StepPlan) -> bytes:
    """For the only rank."""
    return pack(RunStep(*RankPlans(1).split(plan)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("step", "comm")
    return write_random(tmp_path_factory.mktemp("model"), "biased")


@pytest.mark.parametrize(("world", "layout"), [*LAYOUTS, *STAGED], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_steps_from_frames_give_the_same(
    world: int, layout: dict[str, object], dtype: torch.dtype, model: Path
) -> None:
    with both_ways(model, world, layout, dtype) as executor:
        serve(executor, MANY)
        assert min(executor.frames.followed) > 4


@pytest.mark.parametrize(("world", "layout"), SHARED, ids=str)
def test_steps_of_ranks_that_share_contexts_give_the_same(
    world: int, layout: dict[str, object], tmp_path: Path
) -> None:
    with both_ways(write_random(tmp_path, "window"), world, layout) as executor:
        serve(executor, MANY)
        assert min(executor.frames.followed) > 4


@pytest.mark.parametrize(("world", "layout"), [LAYOUTS[0], LAYOUTS[1], LAYOUTS[3], STAGED[0]], ids=str)
def test_any_requests_are_served_alike(world: int, layout: dict[str, object], model: Path) -> None:
    with both_ways(model, world, layout) as executor:

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        @given(REQUESTS)
        @example(MANY)
        def check(requests: list[Request]) -> None:
            serve(executor, requests)
            executor.take_ids()

        check()
        assert min(executor.frames.followed) > 4


@pytest.mark.parametrize(("world", "layout"), [*LAYOUTS[1:], *STAGED[:2]], ids=str)
def test_ranks_whose_steps_run_in_python_keep_up(world: int, layout: dict[str, object], model: Path) -> None:
    with both_ways(model, world, layout) as executor:
        for runner in executor.frames.runners[1:]:
            runner.decode = None
        serve(executor, MANY)
        assert executor.frames.followed[0] > 4 and not any(executor.frames.followed[1:])


def test_only_steps_with_the_counts_of_one_that_python_ran_are_followed(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        plans = [
            ([admitted(0, [5, 9])], 0),
            ([streams((0, 2, 1))], 0),
            ([streams((0, 3, 2))], 1),
            ([grown(streams((0, 4, 3)), (0, 1, 7))], 2),
            ([admitted(2, [4])], 2),
            ([streams((2, 1, 1), (0, 5, 4))], 2),
            ([streams((2, 2, 2), (0, 6, 5))], 3),
            ([streams((2, 3, 3), (0, 7, 6), news=[(0, 2, [8])])], 3),
            ([streams((0, 8, 7), (2, 4, 4), news=[(2, 1, [9])])], 3),
            ([streams((2, 5, 5), (0, 9, 8))], 4),
            ([streams((0, 10, 9))], 5),
            ([admitted(1, [4])], 5),
            ([streams((0, 11, 10))], 6),
            ([streams((0, 12, 11), (1, 1, 1))], 7),
        ]
        for index, (groups, count) in enumerate(plans):
            executor.step(StepPlan(index + 70_000 * (index > 6), groups))
            assert executor.frames.followed == [count], index


ASKING = SamplingParams(temperature=0.0, logprobs=1)
AFTER_TWO = SamplingParams(temperature=0.0, min_tokens=2, stop_token_ids=(7,))


@pytest.mark.parametrize(("world", "layout"), LAYOUTS[:2], ids=str)
def test_a_row_that_wants_python_does_so_only_while_it_is_there(
    world: int, layout: dict[str, object], model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        plans = [
            (admitted(0, [5, 9]), 0),
            (admitted(1, [3], ASKING), 0),
            (streams((0, 2, 1)), 0),
            (streams((0, 3, 2)), 1),  # slot 1 rests
            (streams((0, 4, 3), (1, 1, 1)), 1),
            (streams((0, 5, 4), (1, 2, 2)), 1),
            (streams((0, 6, 5)), 2),
            (streams((0, 7, 6)), 3),
            (admitted(1, [3], AFTER_TWO), 3),
            (streams((0, 8, 7), (1, 1, 1)), 3),
            (streams((0, 9, 8), (1, 2, 2)), 4),
        ]
        for index, (group, count) in enumerate(plans):
            executor.step(StepPlan(index, [group]))
            assert executor.frames.followed == [count] * world, index


RULES = ('("A" | "BC" | "D"){30,40}', '"0" /[1-5]{30}/ "9"')
RULED = [SamplingParams(temperature=heat, grammar=f"start: {rule}") for heat in (0.0, 0.8) for rule in RULES]


@pytest.mark.parametrize(("world", "layout"), [*LAYOUTS, *STAGED], ids=str)
def test_rows_with_a_grammar_are_followed(world: int, layout: dict[str, object], model: Path) -> None:
    """Beside rows without one."""
    with both_ways(model, world, layout) as executor, grammars_of(executor):
        serve(executor, [(0, 3, 9, RULED[1]), (0, 2, 12, GREEDY), (0, 1, 15, RULED[2]), (2, 1, 9, RULED[3])])
        assert min(executor.frames.followed) > 4


@pytest.mark.parametrize(("world", "layout"), LAYOUTS[:4], ids=str)
def test_a_row_whose_grammar_fails_fails_alone(world: int, layout: dict[str, object], model: Path) -> None:
    with both_ways(model, world, layout) as executor, grammars_of(executor, breaks_after=4):
        rest = [GroupPlan()] * (executor.layout.attention.dp - 1)
        executor.step(StepPlan(0, [admitted(0, [5, 9], RULED[2]), *rest]))
        executor.step(StepPlan(1, [admitted(1, [7]), *rest]))
        results = [
            executor.step(StepPlan(at, [grown(streams((0, at, at - 1), (1, at - 1, at - 1)), (0, 1, 5)), *rest]))
            for at in range(2, 7)
        ]
        failed = [[one.slot for one in result.groups[0].extras if one.error == GRAMMAR_FAILED] for result in results]
        assert failed == [[], [], [], [0], [0]]
        assert executor.frames.followed[0] == 2


@pytest.mark.parametrize(("world", "layout"), LAYOUTS[:4], ids=str)
def test_a_logit_that_is_not_finite_is_told_alike(world: int, layout: dict[str, object], model: Path) -> None:
    with both_ways(model, world, layout) as executor:
        rest = [GroupPlan()] * (executor.layout.attention.dp - 1)
        others = [streams((1, at, at - 1)) for at in range(2, 7) for _ in rest]
        executor.step(StepPlan(0, [admitted(0, [5, 9]), *[admitted(1, [7, 8])] * len(rest)]))
        executor.step(StepPlan(1, [streams((0, 2, 1)), *others[:1]]))
        for each in (executor.frames, executor.general):
            for runner in each.runners:
                runner.ropes[0].cos_sin[4] = torch.nan
        executor.step(StepPlan(2, [streams((0, 3, 2)), *others[1:2]]))
        more = [grown(each, (1, 1, 6)) for each in others[2:3]]
        executor.step(StepPlan(3, [grown(streams((0, 4, 3)), (0, 1, 5)), *more]))
        assert executor.frames.followed == [1] * world
        executor.step(StepPlan(4, [admitted(2, [3]), *[admitted(3, [4])] * len(rest)]))
        executor.step(StepPlan(5, [streams((2, 1, 1)), *[streams((3, 1, 1))] * len(rest)]))


@pytest.mark.parametrize("row", [(0, 32, 3), (5, 3, 2), (0, -1, 2)])
def test_a_row_that_there_is_not_ends_the_rank_as_it_does_in_python(row: tuple[int, int, int], model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        ranks = executor.frames
        ranks.channels[0].send(frame_of(StepPlan(2, [streams(row)])))
        with pytest.raises(WeftError, match="beyond the slots"):
            ranks.loops[0].result(120.0)
        assert ranks.followed == [0]


def test_a_table_that_there_is_not_is_left_to_python(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        executor.step(StepPlan(2, [grown(streams((0, 3, 2)), (0, 1, 4), (0, 60, 5))]))
        assert executor.frames.followed == [0]


def test_a_frame_longer_than_the_room_is_left_to_python(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        executor.step(StepPlan(2, [grown(streams((0, 3, 2)), *[(0, 1, 4)] * 1_000)]))
        assert executor.frames.followed == [0]


def test_frames_that_come_in_pieces_or_together_are_read(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        plans = [StepPlan(index, [streams((0, index + 1, index))]) for index in (2, 3, 4)]
        frames = [frame_of(plan) for plan in plans]
        ranks, channel = executor.frames, executor.frames.channels[0]
        together = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
        # positions 4 and on need a block that the plan must have; here they stay in the null block
        for piece in (together[:2], together[2:40], together[40:]):
            channel._sock.sendall(piece)
            until(lambda: True)
        for plan in plans:
            done = unpack_from_rank(channel.receive(120.0))
            assert isinstance(done, StepDone) and done.index == plan.index
            assert done.result == executor.general.step(plan).groups[0]
        ranks.given += 3


def test_a_rank_whose_supervisor_is_gone_ends(model: Path) -> None:
    with both_ways(model, 1, {}) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        ranks = executor.frames
        ranks.channels[0].close()
        with pytest.raises(ChannelClosed):
            ranks.loops[0].result(120.0)


def tokens_of(executor: Executor, count: int) -> list[list[int]]:
    """Of streams that begin together, and end one after the other."""
    config = EngineConfig(max_model_len=32, max_num_seqs=4, max_num_batched_tokens=8, block_size=4)
    engine = Engine(executor, config, (), vocab_size=VOCABULARY)
    found: list[list[int]] = [[] for _ in range(count)]
    for number in range(count):
        params = GREEDY if number % 2 else DRAWN
        engine.add_request(str(number), [number, 3], replace(params, max_tokens=6 + 4 * number, ignore_eos=True))
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            found[int(output.request_id)] += output.new_token_ids
    return found


def ranks_of(path: Path, given: dict[str, object], world: int) -> Ranks:
    checkpoint = open_checkpoint(path)
    return Ranks(
        checkpoint, Shards(parse_config(checkpoint.config), resolve(given, world)), Numerics(torch.float32), LIMITS
    )


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize(("world", "layout"), STAGED[:2], ids=str)
def test_batches_that_take_turns_are_followed(world: int, layout: dict[str, object], count: int, model: Path) -> None:
    """Of three streams one batch has two rows, the other one."""
    alone, staged = ranks_of(model, {}, 1), InFlight(ranks_of(model, layout, world))
    try:
        assert tokens_of(staged, count) == tokens_of(alone, count)
        assert min(staged.frames.followed) > staged.frames.given // 3
        # Python counts none here: the time is of steps that C++ ran
        assert staged.frames.page.work(0).stage_wait_s > 0
    finally:
        staged.close()
        alone.close()


def test_ids_that_are_not_waited_for_are_seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage's steps take the ids of the step before the last one."""
    alone, staged = ranks_of(model, {}, 1), InFlight(ranks_of(model, {"pipeline.stages": 2}, 2))
    submit = staged.submit
    monkeypatch.setattr(staged, "submit", lambda plan: submit(replace(plan, awaits=max(0, plan.awaits - 1))))
    try:
        assert tokens_of(staged, 4) != tokens_of(alone, 4)
        assert min(staged.frames.followed) > 4
    finally:
        staged.close()
        alone.close()
