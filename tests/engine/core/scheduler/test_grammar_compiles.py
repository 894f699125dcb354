"""No step waits for a grammar: a request gets a slot only after every rank of its group has compiled its grammar."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.engine.core.paged_fake import AsyncPagedFake, PagedFake
from tests.engine.core.state_checks import check_engine
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.compute.grammars.llguidance_compiler import KEPT
from weft.engine.core.engine import Engine
from weft.engine.core.scheduler.compiling import AHEAD

RANKS = 3
"""Of each group."""


class Compiles:
    """Ranks that compile one grammar after the other, each at its own pace, and answer late."""

    def begin(self, groups: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.told: list[list[str]] = [[] for _ in range(groups)]
        self.done = [[0] * RANKS for _ in range(groups)]
        self.said = [[0] * RANKS for _ in range(groups)]
        self.compiles = False
        self.admitted = 0

    def compile_grammars(self, texts: Sequence[Sequence[str]]) -> None:
        assert not self.compiles
        for told, new in zip(self.told, texts, strict=True):
            told += new
        self.compiles = True

    def compiled(self, group: int) -> int:
        self.work()
        return min(self.said[group])

    def await_compiled(self, most_s: float) -> None:
        self.work()

    def work(self) -> None:
        for told, done, said in zip(self.told, self.done, self.said, strict=True):
            for rank in range(RANKS):
                done[rank] = min(len(told), done[rank] + self.random.randint(0, 1))
                if self.compiles:
                    said[rank] = done[rank]
        self.compiles = self.compiles and self.random.random() < 0.5

    def check(self, plan: StepPlan) -> None:
        for group, part in enumerate(plan.groups):
            for admit in part.new_requests:
                if admit.params.grammar is not None:
                    self.admitted += 1
                    told, done = self.told[group], min(self.done[group])
                    recent = told[max(0, done - KEPT) : done]
                    assert admit.params.grammar in recent, "a step would wait for this grammar"


class CompilingFake(Compiles, PagedFake):
    def step(self, plan: StepPlan) -> StepResult:
        self.check(plan)
        return super().step(plan)


class AsyncCompilingFake(Compiles, AsyncPagedFake):
    def submit(self, plan: StepPlan) -> None:
        self.check(plan)
        super().submit(plan)


def engine_of(fake: type[Any], seed: int, groups: int, **fields: Any) -> tuple[Engine, Any]:
    settings = {"max_model_len": 256, "max_num_seqs": 4, "max_num_batched_tokens": 16, "block_size": 4}
    config = EngineConfig(**{**settings, **fields})
    made = fake(config, 80, groups)
    made.begin(groups, seed)
    return Engine(made, config, ()), made


@pytest.mark.parametrize("fake", [CompilingFake, AsyncCompilingFake])
@pytest.mark.parametrize("seed", range(8))
def test_a_request_is_admitted_once_all_ranks_have_compiled_its_grammar(fake: type[Any], seed: int) -> None:
    """Beside others without a grammar, with aborts, preemptions, and more requests than ranks keep grammars."""
    engine, ranks = engine_of(fake, seed, groups=1 + seed % 2)
    draw, live, ended = random.Random(seed), set[str](), 0
    wanted = 60
    for number in range(wanted):
        grammar = None if draw.random() < 0.3 else f"start: {draw.randint(0, 40)}"
        prompt = [draw.randint(1, 900) for _ in range(draw.randint(1, 60))]
        params = SamplingParams(max_tokens=draw.randint(1, 60), grammar=grammar, n=draw.randint(1, 2))
        engine.add_request(f"r{number}", prompt, params)
        live.add(f"r{number}")
        for _ in range(draw.randint(0, 4)):
            ended += sum(output.finish_reason is not None for output in engine.step())
        if draw.random() < 0.1:
            engine.abort(draw.choice(sorted(live)))
        check_engine(engine)
    for _ in range(20_000):
        if not engine.has_work:
            break
        engine.step()
    assert not engine.has_work and engine.failure is None
    assert ranks.admitted > 20 and not engine._live


def test_streams_go_on_while_a_grammar_is_compiled() -> None:
    engine, ranks = engine_of(CompilingFake, 0, groups=1)
    ranks.work = lambda: None  # the ranks never come to an end
    engine.add_request("slow", [1, 2, 3], SamplingParams(max_tokens=4, grammar="start: /x/"))
    engine.add_request("stream", [4, 5, 6], SamplingParams(max_tokens=30))
    tokens = [token for _ in range(40) for output in engine.step() for token in output.new_token_ids]
    assert len(tokens) == 30 and ranks.admitted == 0 and engine.has_work
    assert engine.abort("slow") and not [output for output in engine.step() if output.error]
    ranks.compiles = False
    assert not engine.has_work


def test_ranks_hear_of_few_grammars_ahead() -> None:
    engine, ranks = engine_of(CompilingFake, 0, groups=1, max_num_seqs=1)
    for number in range(3 * AHEAD):
        engine.add_request(f"r{number}", [1, 2], SamplingParams(max_tokens=5, grammar=f"start: {number}"))
    engine.step()
    assert len(ranks.told[0]) == AHEAD < KEPT
    while engine.has_work:
        engine.step()
    assert ranks.told[0] == [f"start: {number}" for number in range(3 * AHEAD)]
