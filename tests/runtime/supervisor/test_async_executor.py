"""ProcessExecutor given steps ahead: parts of two steps that come mixed find their steps, and others are refused."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from weft.base.errors import PeerError
from weft.base.step.plan import GroupPlan, GroupResult, Sampled, ScheduledRequest, StepPlan
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.messages import RunStep, StepDone, unpack_for_rank
from weft.runtime.launch_plan.timeouts import StepClock
from weft.runtime.supervisor.executor import ProcessExecutor


class Sent:
    """A rank's channel: keeps what it is sent."""

    def __init__(self) -> None:
        self.plans: list[int] = []

    def send(self, frame: bytes, timeout_s: float | None = None) -> None:
        message = unpack_for_rank(frame)
        assert isinstance(message, RunStep)
        self.plans.append(message.plan.index)


class SentTo(SimpleNamespace):
    """A rank's link, with a channel of its own."""

    def sender(self) -> tuple[object, Any]:
        return self.rank, lambda frames, timeout_s: self.channel.send(frames[self.rank], timeout_s)


class FakeRanks:
    """A watch over two ranks that say what the test makes them say."""

    def __init__(self) -> None:
        self.workers = [SentTo(rank=rank, channel=Sent(), where=f"rank {rank}") for rank in range(2)]
        self.script: deque[tuple[int, StepDone]] = deque()

    def say(self, rank: int, index: int) -> None:
        self.script.append((rank, StepDone(index, GroupResult(runs=[Sampled(rank, 10 * index + rank)]))))

    def ready(self, until: float) -> list[int]:
        return list(range(len(self.script)))

    def read(self, ready: int) -> tuple[Any, StepDone]:
        rank, message = self.script.popleft()
        return self.workers[rank], message


@pytest.fixture
def ranks() -> tuple[ProcessExecutor, FakeRanks]:
    """Two attention-dp groups of one rank each."""
    fake: Any = FakeRanks()
    layout = resolve({"attention.dp": 2}, world_size=2)
    return ProcessExecutor(layout, 8, fake, StepClock(60.0), RankPlans(layout.attention.tp)), fake


def plan(index: int) -> StepPlan:
    run = ScheduledRequest(slot=0, start=0, count=1, ids=[1], blocks=[1], sample=True)
    return StepPlan(index, [GroupPlan([], [run]) for _ in range(2)])


def ids(executor: ProcessExecutor) -> tuple[int, list[list[int]]]:
    result = executor.collect()
    return result.index, [[one.token_id for one in group.runs] for group in result.groups]


@pytest.mark.parametrize(
    "order",
    [
        [(0, 0), (1, 0), (0, 1), (1, 1)],
        [(0, 0), (0, 1), (1, 0), (1, 1)],
        [(1, 0), (1, 1), (0, 0), (0, 1)],
    ],
)
def test_parts_find_their_steps(ranks: tuple[ProcessExecutor, FakeRanks], order: list[tuple[int, int]]) -> None:
    executor, fake = ranks
    for index in range(2):
        executor.submit(plan(index))
    assert [worker.channel.plans for worker in fake.workers] == [[0, 1], [0, 1]]
    for rank, index in order:
        fake.say(rank, index)
    assert ids(executor) == (0, [[0], [1]])
    assert ids(executor) == (1, [[10], [11]])


@pytest.mark.parametrize("said", [[(0, 1)], [(0, 0), (0, 0)], [(0, 0), (0, 1), (0, 2)]])
def test_what_nobody_asked_for_is_refused(
    ranks: tuple[ProcessExecutor, FakeRanks], said: list[tuple[int, int]]
) -> None:
    executor, fake = ranks
    for index in range(2):
        executor.submit(plan(index))
    for rank, index in said:
        fake.say(rank, index)
    with pytest.raises(PeerError, match="rank 0 sent"):
        executor.collect()


def test_one_step_at_a_time_is_the_same_without_a_queue(ranks: tuple[ProcessExecutor, FakeRanks]) -> None:
    executor, fake = ranks
    for index in range(3):
        fake.say(1, index)
        fake.say(0, index)
        result = executor.step(plan(index))
        assert [group.runs[0].token_id for group in result.groups] == [10 * index, 10 * index + 1]
