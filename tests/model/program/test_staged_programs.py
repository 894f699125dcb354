"""Step programs of pipeline stages: they receive first and send last, and give what one rank gives, also with several
steps in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.equivalence.harness import LIMITS, MIXED, checkpoint_at, largest_difference, make_executor, run_workload
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupResult, StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.compute.ops.operations.table import Op
from weft.engine.core.engine import Engine
from weft.engine.core.executor import Executor
from weft.parallel.arch import Shards, parse_config
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve

FP64 = Numerics(torch.float64)
LAYOUTS = [
    ("deep", {"pipeline.stages": 2}, 2),
    ("deep", {"pipeline.layers": (1, 3, 1)}, 3),
    ("deep", {"pipeline.layers": (4, 1), "attention.tp": 2}, 4),
    ("deep", {"pipeline.stages": 2, "attention.tp": 2, "o_proj.tp": 1, "lm_head.tp": 1}, 4),
    ("tied", {"pipeline.stages": 2, "attention.dp": 2, "o_proj.tp": 2, "dense.tp": 2}, 4),
    ("experts", {"pipeline.stages": 3}, 3),
    ("experts", {"pipeline.stages": 2, "attention.tp": 2, "experts.dispatch": "all_to_all"}, 4),
    ("latent", {"pipeline.stages": 2, "attention.tp": 2}, 4),
    ("latent", {"pipeline.stages": 2, "attention.cp": 2}, 4),
    ("window", {"pipeline.stages": 2, "attention.tp": 2, "attention.kv_split": 2}, 4),
]


@pytest.fixture(autouse=True)
def native() -> None:
    need("comm")
    need("step")


def executor_of(path: Path, given: dict[str, object], world: int) -> ProgramExecutor:
    checkpoint = checkpoint_at(path)
    config = parse_config(checkpoint.config)
    layout = resolve(given, world, num_experts=config.num_experts)
    return ProgramExecutor(checkpoint, Shards(config, layout), FP64, LIMITS)


@pytest.mark.parametrize(("variant", "given", "world"), LAYOUTS, ids=str)
def test_programs_give_what_one_rank_gives(variant: str, given: dict[str, object], world: int, tmp_path: Path) -> None:
    path = write_random(tmp_path, variant)
    experts = parse_config(checkpoint_at(path).config).num_experts
    alone = run_workload(make_executor(path, resolve({}, num_experts=experts), FP64), MIXED)
    executor = executor_of(path, given, world)
    found = run_workload(executor, MIXED)
    executor.close()
    assert [one.tokens for one in found] == [one.tokens for one in alone]
    assert largest_difference(found, alone) < 1e-10


def test_messages_come_first_and_last(tmp_path: Path) -> None:
    executor = executor_of(write_random(tmp_path, "deep"), {"pipeline.layers": (2, 2, 1)}, 3)
    programs = [runner.program.program for runner in executor.runners if runner.program is not None]
    codes = [[each.op for each in program.instructions] for program in programs]
    executor.close()
    first, middle, last = codes
    assert first[0] is Op.EMBED and first[-1] is Op.SEND and Op.RECV not in first
    assert middle[0] is Op.RECV and middle[-1] is Op.SEND and Op.EMBED not in middle
    assert last[0] is Op.RECV and last[-1] is Op.LINEAR and Op.SEND not in last


class InFlight:
    """An `AsyncExecutor` over ranks that each run their plans in a thread, one after the other."""

    def __init__(self, executor: ProgramExecutor) -> None:
        self.executor, self.most_in_flight = executor, 0
        self._plans = RankPlans(executor.layout.attention.tp)
        self._ranks = [ThreadPoolExecutor(1) for _ in executor.runners]
        self._waiting: deque[tuple[int, list[Future[GroupResult]]]] = deque()

    @property
    def layout(self) -> Layout:
        return self.executor.layout

    @property
    def num_blocks(self) -> int:
        return self.executor.num_blocks

    def step(self, plan: StepPlan) -> StepResult:
        self.submit(plan)
        return self.collect()

    def expert_counts(self) -> IntArray:
        return self.executor.expert_counts()

    def close(self) -> None:
        self.executor.close()

    def submit(self, plan: StepPlan) -> None:
        pairs, plans = zip(self._ranks, self.executor.runners, strict=True), self._plans.split(plan)
        parts = [rank.submit(runner.step, plans[runner.geometry.group]) for rank, runner in pairs]
        self._waiting.append((plan.index, parts))
        self.most_in_flight = max(self.most_in_flight, len(self._waiting))

    def collect(self) -> StepResult:
        index, parts = self._waiting.popleft()
        pairs = zip(self.executor.runners, parts, strict=True)
        return StepResult(index, [part.result(60) for runner, part in pairs if runner.reports])


def tokens(executor: Executor, prompts: list[list[int]]) -> Iterator[list[int]]:
    config = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=8, block_size=LIMITS.block_size)
    engine = Engine(executor, config, (), vocab_size=101)
    params = [
        SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True),
        SamplingParams(temperature=1.0, seed=5, max_tokens=20, ignore_eos=True, repetition_penalty=1.3),
        SamplingParams(temperature=0.7, seed=6, max_tokens=20, ignore_eos=True, logprobs=2),
    ]
    found: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, params[number % 3])
        found[str(number)] = []
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            found[output.request_id] += output.new_token_ids
    assert engine.failure is None
    yield from found.values()


@pytest.mark.parametrize(
    ("given", "world"), [({"pipeline.stages": 2}, 2), ({"pipeline.stages": 3}, 3), ({"pipeline.stages": 2}, 4)]
)
def test_several_steps_in_flight(given: dict[str, object], world: int, tmp_path: Path) -> None:
    """Greedy, drawn and penalized requests, more than there are slots."""
    path = write_random(tmp_path, "deep")
    prompts = [[number, 7, 3 * number + 1][: 1 + number % 3] * (1 + 4 * (number % 2)) for number in range(1, 8)]
    alone = list(tokens(make_executor(path, resolve({}), FP64), prompts))
    pipeline = InFlight(executor_of(path, given, world))
    assert list(tokens(pipeline, prompts)) == alone
    assert pipeline.most_in_flight == pipeline.layout.pipeline.stages + 1
    pipeline.executor.close()
