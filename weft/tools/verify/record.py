"""Records what a layout computes: each request's tokens and logits, and every module's result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.model.models.decoder import Tap
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Placement, PlacementKind
from weft.parallel.layout.rank_plans import counts_of, cp_of_rows, rows_of_blocks
from weft.runtime.worker.lockstep_executor import LockstepExecutor

Prompt = tuple[int, ...]


@dataclass
class GreedyOutput:
    """What one request got: its tokens, and the logits [V] that each came from."""

    tokens: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


class LogitsRecorder:
    """Wraps an executor and keeps the logits of every sampled row, by prompt. Prompts must differ."""

    def __init__(self, executor: LockstepExecutor) -> None:
        self.executor = executor
        self.logits: dict[Prompt, list[Tensor]] = defaultdict(list)
        self._prompts: dict[tuple[int, int], Prompt] = {}

    @property
    def layout(self) -> Layout:
        """The layout that runs."""
        return self.executor.layout

    @property
    def num_blocks(self) -> int:
        """KV blocks on every rank."""
        return self.executor.num_blocks

    def expert_counts(self) -> IntArray:
        """Those of the wrapped executor."""
        return self.executor.expert_counts()

    def close(self) -> None:
        """Closes the wrapped executor."""
        self.executor.close()

    def step(self, plan: StepPlan) -> StepResult:
        """Runs the plan and stores each sampled row's logits under its request's prompt."""
        parts = Parts(self.executor, only="lm_head")
        result = self.executor.step(plan)
        self._record(plan, parts.in_plan_order(plan, parts.whole("lm_head")))
        return result

    def _record(self, plan: StepPlan, rows: Tensor) -> None:
        """rows [sampled rows of all groups, vocabulary]."""
        row = 0
        for group, part in enumerate(plan.groups):
            for admit in part.new_requests:
                self._prompts[group, admit.slot] = tuple(admit.prompt_ids)
            for run in part.every_run():
                if run.sample:
                    self.logits[self._prompts[group, run.slot]].append(rows[row])
                    row += 1


class Parts:
    """Collects every rank's part of the modules' results; `whole` puts one together."""

    def __init__(self, executor: LockstepExecutor, only: str | None = None) -> None:
        self.parts: dict[str, list[Tensor | None]] = {}
        self.placements: dict[str, Placement] = {}
        self._world, self._only, self._executor = len(executor.runners), only, executor
        for rank, runner in enumerate(executor.runners):
            runner.decoder.tap = self._tap(rank)

    def _tap(self, rank: int) -> Tap:
        def tap(name: str, x: Tensor, placement: Placement) -> None:
            if self._only in (None, name):
                self.placements[name] = placement
                self.parts.setdefault(name, [None] * self._world)[rank] = x.detach().clone()

        return tap

    def whole(self, name: str) -> Tensor:
        """The module's result for all rows of the stage, in the order of ranks: [rows, width]."""
        parts, placement = self.parts[name], self.placements[name]
        ready = [part for part in parts if part is not None]
        blocks = [ready[first : first + placement.size] for first in range(0, len(ready), placement.size)]
        if placement.kind is not PlacementKind.SHARD:
            return torch.cat([block[0] for block in blocks])
        order = sorted(range(placement.size), key=lambda position: placement.cuts[position])
        return torch.cat([torch.cat([block[position] for position in order], 1) for block in blocks])

    def in_plan_order(self, plan: StepPlan, rows: Tensor) -> Tensor:
        """Rows of the stage, or its sampled rows alone, in the plan's order: with cp, ranks have them by position."""
        owners, tp = self._executor.owners, self._executor.layout.attention.tp
        if owners.cp == 1:
            return rows
        blocks = [rows_of_blocks(counts_of(each), tp, owners.cp, cp_of_rows(each, owners)) for each in plan.groups]
        order: list[int] = []
        for each in blocks:
            numbers = np.concatenate(each.rows_of if len(rows) == plan.num_rows else each.sampled_of)
            order += (len(order) + np.argsort(numbers)).tolist()
        return rows[order]


def greedy_tokens(engine: Engine, prompts: Sequence[Prompt], max_tokens: int) -> list[list[int]]:
    """Tokens of every prompt, to max_tokens each.

    The first prompt runs alone; then one more arrives with every step, so that dp groups have unlike work."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    found: list[list[int]] = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    while waiting or engine.has_work:
        if waiting and (waiting[0] != 1 or not engine.has_work):
            index = waiting.pop(0)
            engine.add_request(str(index), list(prompts[index]), params)
        for output in engine.step():
            found[int(output.request_id)].extend(output.new_token_ids)
    return found


def outcomes(
    engine: Engine, recorder: LogitsRecorder, prompts: Sequence[Prompt], max_tokens: int
) -> list[GreedyOutput]:
    """Runs all prompts through the engine, greedily, to max_tokens each."""
    tokens = greedy_tokens(engine, prompts, max_tokens)
    return [GreedyOutput(each, recorder.logits[tuple(prompt)]) for each, prompt in zip(tokens, prompts, strict=True)]
