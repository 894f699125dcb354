"""Ranks that get their steps as frames, beside ranks that take the general path; every step is compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.runtime.worker.decode_cases import LIMITS
from tests.support.fakes.uncounted import Uncounted
from tests.support.program_executor import ProgramExecutor
from tests.support.waiting import until
from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.vocabulary import Vocabulary
from weft.compute.comm.metered import MeteredComm
from weft.compute.grammars.base import Automaton, GrammarError
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.compute.native.runtime_records import FollowingRecord
from weft.compute.ops.base import Numerics
from weft.compute.sampling.grammar_masks import GrammarMasks
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.ipc.channel import Channel, channel_pair
from weft.runtime.ipc.messages import RunStep, Shutdown, StepDone, pack, unpack_from_rank
from weft.runtime.ipc.status import StatusPage
from weft.runtime.worker.faults import Faults
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.runtime.worker.rank import _steps


class Ranks(ProgramExecutor):
    """Ranks that get their steps as frames, as in processes of their own."""

    def __init__(self, checkpoint: Any, shards: Shards, numerics: Numerics, limits: RankCapacity) -> None:
        super().__init__(checkpoint, shards, numerics, limits)
        self.page = StatusPage.create(len(self.runners))
        self._before: list[int] = [0] * len(self.runners)
        self._now: list[FollowingRecord | None] = [None] * len(self.runners)
        self.channels, self.loops, self.given = [], [], 0
        self.waiting = deque[int]()
        for rank in range(len(self.runners)):
            ours, end = channel_pair()
            self.channels.append(ours)
            theirs = Channel(end)
            self._count(rank)
            self.loops.append(self._threads.submit(self._serve, rank, theirs))

    def _serve(self, rank: int, channel: Channel) -> None:
        runner, status = self.runners[rank], self.page.writer(rank)
        way: Any = SimpleNamespace(channel=channel, status=status, faults=Faults())
        try:
            _steps(runner, way, MeteredComm(self.comms[rank]))
        finally:
            channel.close()

    @property
    def followed(self) -> list[int]:
        """Steps of each rank that Python did not see."""
        return [before + (now.steps if now else 0) for before, now in zip(self._before, self._now, strict=True)]

    def _count(self, rank: int) -> None:
        runner: Any = self.runners[rank]
        inner: Callable[[FollowingRecord], bool] = runner.follow

        def follow(following: FollowingRecord) -> bool:
            self._before[rank] += following.steps
            self._now[rank] = following
            return inner(following)

        runner.follow = follow

    def submit(self, plan: StepPlan) -> None:
        parts = self._plans.split(plan)
        for runner, channel in zip(self.runners, self.channels, strict=True):
            channel.send(pack(RunStep(parts[runner.geometry.group])))
        self.waiting.append(plan.index)
        self.given += 1

    def collect(self) -> StepResult:
        index = self.waiting.popleft()
        reporting = [channel for runner, channel in zip(self.runners, self.channels, strict=True) if runner.reports]
        return StepResult(index, [self._answer(channel, index).result for channel in reporting])

    def step(self, plan: StepPlan) -> StepResult:
        self.submit(plan)
        result = self.collect()
        for rank in range(len(self.runners)):
            until(partial(self._rests, rank), f"rank {rank} after step {self.given}")
        return result

    @staticmethod
    def _answer(channel: Channel, index: int) -> StepDone:
        done = unpack_from_rank(channel.receive(120.0))
        assert isinstance(done, StepDone) and done.index == index
        return done

    def _rests(self, rank: int) -> bool:
        status = self.page.read(rank)
        return status.step == self.given and not status.busy

    def close(self) -> None:
        for channel, loop in zip(self.channels, self.loops, strict=True):
            if not loop.done():
                channel.send(pack(Shutdown()))
            channel.close()
        self._threads.shutdown()
        for rank, runner in enumerate(self.runners):
            assert self.page.work(rank).rows == runner.rows
        super().close()


class InFlight(Uncounted):
    """Ranks that get a step while others are in flight."""

    def __init__(self, frames: Ranks) -> None:
        self.frames, self.layout, self.num_blocks = frames, frames.layout, frames.num_blocks
        self.step, self.submit, self.collect, self.close = frames.step, frames.submit, frames.collect, frames.close


class Both(Uncounted):
    """An executor that runs every plan both ways and compares."""

    def __init__(self, frames: Ranks, general: ProgramExecutor) -> None:
        self.frames, self.general = frames, general
        self.layout, self.num_blocks = frames.layout, frames.num_blocks
        for runner in general.runners:
            runner.decode = None

    def step(self, plan: StepPlan) -> StepResult:
        result = self.frames.step(plan)
        assert result == self.general.step(plan), plan
        for one, other in zip(self.frames.runners, self.general.runners, strict=True):
            assert torch.equal(one.last_ids, other.last_ids)
            tables = one.inputs.tables
            assert tables.highest == other.inputs.tables.highest >= tables.rows.max()
        return result

    def take_ids(self) -> None:
        """Of the last steps; those of another engine are numbered anew."""
        for runner in (*self.frames.runners, *self.general.runners):
            runner.ids.take_all()

    def close(self) -> None:
        self.frames.close()
        self.general.close()


@contextmanager
def both_ways(path: Path, world: int, given: dict[str, object], dtype: torch.dtype = torch.float32) -> Iterator[Both]:
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve(given, world))
    numerics = Numerics(dtype)
    made = Both(Ranks(checkpoint, shards, numerics, LIMITS), ProgramExecutor(checkpoint, shards, numerics, LIMITS))
    try:
        yield made
    finally:
        made.close()


TOKENS = [*(bytes([code]) for code in range(32, 127)), *(b"~%d" % number for number in range(6))]
"""Of a model of 101 ids; the last ends an answer."""


class Breaking:
    """Automata that fail at their `after`-th token."""

    def __init__(self, after: int) -> None:
        last = len(TOKENS) - 1
        self._inner, self._after = LLGuidanceCompiler(Vocabulary.of(TOKENS, [last], [last])), after

    def compile(self, text: str) -> Automaton:
        automaton, left = self._inner.compile(text), self._after
        feed = automaton.feed

        def count(ids: Sequence[int]) -> None:
            nonlocal left
            left -= len(ids)
            if left <= 0:
                raise GrammarError("as the test wants")
            feed(ids)

        automaton.feed = count  # type: ignore[method-assign]
        return automaton


@contextmanager
def grammars_of(executor: Both, breaks_after: int = 1000) -> Iterator[None]:
    """Gives every rank a vocabulary."""
    with ExitStack() as closing:
        for runner in (*executor.frames.runners, *executor.general.runners):
            grammars = GrammarMasks(partial(Breaking, breaks_after), len(TOKENS))
            runner.sampler.grammars = grammars
            closing.callback(grammars.close)
        yield
