"""Pipeline stages simulated: the engine and its scheduler are the real ones, a step's time comes from a cost.

The cost is fitted to what one rank took for the same bursts: seconds a step, a decode row and a prompt row. A row's
attention counts as rows by the keys before it. Each stage has its share of them; lm_head counts for decode rows and for
steps that sample. Planning and messages take no time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.bursts import Burst
from benchmarks.common.fake_engine import NoExperts, answer
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.stages import head_products, keys_per_row, layer_products, stage_layers
from weft.parallel.layout.layout import Layout
from weft.runtime.launch_plan.step_limits import with_step_tokens

Floats = NDArray[np.float64]
"""Of steps, decode rows and prompt rows."""


@dataclass(frozen=True, slots=True)
class StageShares:
    """[stages]: what part of the work of a row that is sampled (`sampled`), or not, each stage has."""

    sampled: Floats
    prompt: Floats

    @classmethod
    def of(cls, config: ModelConfig, layout: Layout) -> StageShares:
        """By multiplications with weights."""
        products = layer_products(config)
        prompt = np.array([sum(products[lo:hi]) for lo, hi in stage_layers(layout, config.num_layers)], float)
        sampled = prompt.copy()
        sampled[-1] += head_products(config)
        return cls(sampled / sampled.sum(), prompt / prompt.sum())


class SimulatedStages(NoExperts):
    """Ranks of an engine on a clock of their own (`now`, seconds). `cost`: seconds of one of `Floats`."""

    def __init__(self, layout: Layout, config: ModelConfig, num_blocks: int, cost: Floats) -> None:
        self.layout, self.num_blocks = layout, num_blocks
        self.now, self.done = 0.0, np.zeros(3)
        """`done`: what all steps had."""
        self.busy, self.waited = (np.zeros(layout.pipeline.stages) for _ in range(2))
        self._shares, self._per_row, self._cost = StageShares.of(config, layout), keys_per_row(config), cost
        self._free = np.zeros(layout.pipeline.stages)
        self._ends: list[float] = []
        """Of every step, on the last stage."""
        self._waiting: deque[StepPlan] = deque()

    def submit(self, plan: StepPlan) -> None:
        """Runs the step on every stage as soon as its rows and ids are there."""
        work, samples = self._work(plan)
        self.done += work
        fixed = self._shares.sampled if samples else self._shares.prompt
        taken = work[0] * self._cost[0] * fixed + work[1] * self._cost[1] * self._shares.sampled
        taken += work[2] * self._cost[2] * self._shares.prompt
        came = self._ends[plan.awaits - 1] if plan.awaits else 0.0
        for stage, seconds in enumerate(taken):
            begins = max(self.now, self._free[stage])
            runs = max(begins, came)
            self._free[stage] = came = runs + seconds
            self.waited[stage] += runs - begins
            self.busy[stage] += came - begins
        self._ends.append(came)
        self._waiting.append(plan)

    def collect(self) -> StepResult:
        """Of the oldest step, when it has ended."""
        plan = self._waiting.popleft()
        self.now = max(self.now, self._ends[plan.index])
        return StepResult(plan.index, [answer(group, 1) for group in plan.groups])

    def step(self, plan: StepPlan) -> StepResult:
        """As `submit` and `collect`."""
        self.submit(plan)
        return self.collect()

    def close(self) -> None:
        """Nothing to end."""

    def _work(self, plan: StepPlan) -> tuple[Floats, bool]:
        runs = [run for group in plan.groups for run in group.runs]
        decodes = sum(len(group.decodes) for group in plan.groups)
        rows = sum(run.count * (1 + (run.start + run.count / 2) / self._per_row) for run in runs)
        return np.array([1.0, decodes, rows]), bool(decodes) or any(run.sample for run in runs)


def simulated(
    burst: Burst, layout: Layout, config: ModelConfig, settings: EngineConfig, cost: Floats
) -> SimulatedStages:
    """The stages after a burst."""
    streams, length, tokens = burst
    settings = with_step_tokens(settings, layout)
    blocks = streams * (-(-(length + tokens) // settings.tokens_per_block) + 1)
    stages = SimulatedStages(layout, config, blocks, cost)
    engine = Engine(stages, settings, (), keys_per_row=keys_per_row(config))
    for number in range(streams):
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        engine.add_request(str(number), [number + 2] * length, params)
    while engine.has_work:
        engine.step()
    return stages


def fitted(seconds: Mapping[Burst, float], one: Layout, config: ModelConfig, settings: EngineConfig) -> Floats:
    """The cost with which one rank takes these seconds, as near as can be."""
    work = [simulated(burst, one, config, settings, np.zeros(3)).done for burst in seconds]
    taken = np.array([*seconds.values()])
    found: Floats = np.linalg.lstsq(np.array(work) / taken[:, None], np.ones(len(taken)), rcond=None)[0]
    return np.maximum(found, 0.0)


def idle_shares(stages: SimulatedStages) -> Sequence[float]:
    """Of each stage: the part of its time in steps in which it waits."""
    return [round(float(share), 3) for share in stages.waited / np.maximum(stages.busy, 1e-9)]
