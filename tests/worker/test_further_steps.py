"""Steps that follow a planned one by themselves give what the same steps give that are planned one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.worker.decode_cases import LAYOUTS, admitted, grown, streams
from tests.worker.following_cases import Both, both_ways
from weft.ipc.status import StatusPage
from weft.layout.resolve import resolve
from weft.step.plan import MOST_FURTHER, Further, GroupPlan, StepPlan
from weft.step.sampling_params import SamplingParams


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("step", "comm")
    return write_random(tmp_path_factory.mktemp("model"), "biased")


def further(index: int, group: GroupPlan, steps: int, ends: Iterable[int] = (), *, each: bool = False) -> StepPlan:
    return StepPlan(index, [group], further=Further.of(steps, ends, each=each))


def begin(executor: Both, python: slice) -> None:
    """One request is there. The ranks of `python` take no step from a frame."""
    for runner in executor.frames.runners[python]:
        runner.decode = None
    executor.step(StepPlan(0, [admitted(0, [5, 9])]))


ONE_GROUP = [(world, layout) for world, layout in LAYOUTS if resolve(layout, world).attention.dp == 1]


@pytest.mark.parametrize("each", [False, True], ids=["answered once", "one by one"])
@pytest.mark.parametrize(("world", "layout"), ONE_GROUP, ids=str)
@pytest.mark.parametrize("python", [slice(0, 0), slice(None), slice(1, None)], ids=["C++", "Python", "one in C++"])
def test_steps_follow_by_themselves(
    each: bool, world: int, layout: dict[str, object], python: slice, model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        begin(executor, python)
        # the first is Python's, the four behind it are not, and so on from frame to frame
        executor.step(further(1, streams((0, 2, 1), news=[(0, 1, [7, 8, 9])]), 4, each=each))
        last = executor.step(further(6, streams((0, 7, 6)), 1, each=each)).groups[0].array()
        executor.step(StepPlan(8, [streams((0, 9, 8))]))
        assert len(last) == 2
        assert executor.frames.followed == [0 if runner.decode is None else 7 for runner in executor.frames.runners]


@pytest.mark.parametrize("each", [False, True], ids=["answered once", "one by one"])
@pytest.mark.parametrize(("world", "layout"), ONE_GROUP[:2], ids=str)
@pytest.mark.parametrize("python", [slice(0, 0), slice(None)], ids=["C++", "Python"])
def test_steps_follow_past_several_blocks(
    each: bool, world: int, layout: dict[str, object], python: slice, model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        begin(executor, python)
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        three = grown(streams((0, 3, 2)), (0, 1, 7), (0, 2, 3), (0, 3, 9))
        assert len(executor.step(further(2, three, 12, each=each)).groups[0].array()) == 13
        executor.step(StepPlan(15, [grown(streams((0, 16, 15)), (0, 4, 5))]))
        assert set(executor.frames.followed) == {0 if python == slice(None) else 14}


@pytest.mark.parametrize("each", [False, True], ids=["answered once", "one by one"])
@pytest.mark.parametrize(("world", "layout"), ONE_GROUP[:2], ids=str)
@pytest.mark.parametrize("first", [True, False], ids=["Python's plan", "a frame"])
def test_none_follows_an_id_that_ends(
    each: bool, world: int, layout: dict[str, object], first: bool, model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        found = executor.step(further(1, streams((0, 2, 1), news=[(0, 1, [7, 8, 9])]), 7, each=each))
        known = found.groups[0].array().tolist()
        executor.step(StepPlan(9, [admitted(0, [5, 9])]))
        ran = 0
        if not first:
            ran = 1
            executor.step(StepPlan(10, [streams((0, 2, 1), news=[(0, 1, [7, 8, 9])])]))
        news = [(0, 1, [7, 8, 9])] if first else []
        ending = next(at for at in range(ran + 1, 7) if known[at] not in known[ran:at])
        plan = further(10 + ran, streams((0, 2 + ran, 1 + ran), news=news), 6 - ran, [known[ending], 10**6], each=each)
        assert executor.step(plan).groups[0].array().tolist() == known[ran : ending + 1]


@pytest.mark.parametrize("each", [False, True], ids=["answered once", "one by one"])
@pytest.mark.parametrize(("world", "layout"), ONE_GROUP[:2], ids=str)
@pytest.mark.parametrize(
    ("asked", "fewest"),
    [
        (SamplingParams(temperature=0.0, min_tokens=5, stop_token_ids=(7,)), 5),
        (SamplingParams(temperature=0.0, presence_penalty=1.5), 0),
    ],
    ids=["at first", "always"],
)
def test_python_chooses_tokens_of_steps_that_follow(
    each: bool, world: int, layout: dict[str, object], asked: SamplingParams, fewest: int, model: Path
) -> None:
    """Of one row Python chooses the tokens, until it has as many as it must have, or all. C++ has begun with the plan,
    whose frame waits, and goes on with it."""
    with both_ways(model, world, layout) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1))]))
        executor.step(StepPlan(2, [admitted(1, [3], asked)]))
        tables = [(0, 0, [1, 2, 3]), (1, 0, [4, 5, 6])]
        executor.step(StepPlan(3, [streams((0, 3, 2), (1, 1, 1), news=tables)]))
        executor.step(further(4, streams((0, 4, 3), (1, 2, 2)), 6, each=each))
        executor.step(further(11, streams((0, 11, 10), (1, 9, 9)), 1, each=each))
        assert set(executor.frames.followed) == {fewest + (fewest > 0)} or min(executor.frames.followed) >= fewest


@pytest.mark.parametrize("each", [False, True], ids=["answered once", "one by one"])
@pytest.mark.parametrize(("world", "layout"), ONE_GROUP[:2], ids=str)
def test_none_follows_logits_that_are_not_finite(
    each: bool, world: int, layout: dict[str, object], model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        executor.step(StepPlan(0, [admitted(0, [5, 9])]))
        executor.step(StepPlan(1, [streams((0, 2, 1), news=[(0, 1, [7, 8])])]))
        for ranks in (executor.frames, executor.general):
            for runner in ranks.runners:
                runner.cos_sin[5] = torch.nan
        result = executor.step(further(2, streams((0, 3, 2)), 5, each=each)).groups[0]
        assert len(result.array()) == 3 and result.told[0].error is not None
        executor.step(StepPlan(5, [admitted(2, [3])]))


@pytest.mark.parametrize(("world", "layout"), ONE_GROUP, ids=str)
@pytest.mark.parametrize("python", [slice(0, 0), slice(None), slice(1, None)], ids=["C++", "Python", "one in C++"])
def test_ranks_stop_alike_once_the_engine_says_so(
    world: int, layout: dict[str, object], python: slice, model: Path
) -> None:
    with both_ways(model, world, layout) as executor:
        begin(executor, python)
        index, position = 1, 2
        for stop_behind in (1, 2, 1, 0):
            executor.frames.stop_behind = stop_behind
            blocks = [(0, 1, [7, 8, 9, 4, 3, 10, 11])] if index == 1 else []
            plan = further(index, streams((0, position, position - 1), news=blocks), 6, each=True)
            ran = len(executor.step(plan).groups[0].array())
            assert stop_behind < ran <= 7 if stop_behind else ran == 7
            index, position = index + ran, position + ran


def test_the_first_rank_decides_and_the_others_hear_of_it() -> None:
    page = StatusPage.create(1)
    ours, theirs = page.agreed, StatusPage(os.dup(page.fd), 1).agreed
    most = 1 + MOST_FURTHER
    assert ours.decide(7, 1) and theirs.hear(7, 1, most)
    with ThreadPoolExecutor(1) as other:
        heard = other.submit(theirs.hear, 7, 2, most)
        time.sleep(0.01)
        assert not heard.done()
        ours.stop(6)  # another plan, which is through
        assert ours.decide(7, 2) and heard.result(20.0)
        ours.stop(7)
        heard = other.submit(theirs.hear, 7, 3, most)
        time.sleep(0.01)
        assert not heard.done()
        assert not ours.decide(7, 3) and not heard.result(20.0)
        assert theirs.hear(7, 2, most)  # by one that is a step behind
    assert ours.decide(10, 1) and theirs.hear(10, 1, most)
    page.close()
    page.agreed.stop(10)
