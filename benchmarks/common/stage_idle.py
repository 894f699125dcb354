"""How idle pipeline stages are in bursts: what ranks counted, and what a simulation of the same bursts gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.common.bursts import Burst
from benchmarks.common.stage_simulation import Floats, fitted, idle_shares, simulated
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.frontend.llm import LLM
from weft.parallel.layout.resolve import resolve

FEWEST_FITTED = 3
"""Cases that a cost of three numbers needs."""


class WatchedStages:
    """`llm`, whose bursts add what the stages' ranks counted to `counted`: seconds of waiting for other stages, and
    seconds in steps, [2, stages], for each burst."""

    def __init__(self, llm: LLM, counted: dict[Burst, Floats]) -> None:
        self._llm, self._counted = llm, counted

    def generate(self, prompts: list[list[int]], params: SamplingParams) -> object:
        """As of `LLM`."""
        before = self._seconds()
        found = self._llm.generate(prompts, params)
        burst = len(prompts), len(prompts[0]), params.max_tokens or 0
        self._counted[burst] = self._counted[burst] + self._seconds() - before
        return found

    def _seconds(self) -> Floats:
        found = np.zeros((2, self._llm.plan.layout.pipeline.stages))
        for report in self._llm.reports():
            found[:, report.coordinates["stage"]] += report.stage_wait_s, report.busy_s
        return found


class StageIdle:
    """Of the engines that `watched` starts, and of their simulation. `layout`: of these; `settings`: of the engines."""

    def __init__(self, layout: Mapping[str, object], settings: EngineConfig) -> None:
        self._layout, self._settings = layout, settings
        self._counted: dict[Burst, Floats] = defaultdict(lambda: np.zeros((2, 1)))
        self._made: LLM | None = None

    @contextmanager
    def watched(self, make: Callable[[], LLM]) -> Iterator[WatchedStages]:
        """An engine while it is used."""
        with make() as llm:
            self._made = llm
            yield WatchedStages(llm, self._counted)

    def add_to(self, cases: Mapping[str, dict[str, dict[str, Any]]], bursts: Mapping[str, Burst], way: str) -> None:
        """To what was measured, first of one rank: each stage's idle share in `way`, and, of enough cases, that of the
        simulation and its ratio."""
        assert self._made is not None
        config, one, layout = self._made.plan.config, resolve({}), resolve(self._layout)
        for name, burst in bursts.items():
            waited, busy = self._counted[burst]
            cases[name][way]["idle"] = [round(float(share), 3) for share in waited / np.maximum(busy, 1e-9)]
        if len(bursts) < FEWEST_FITTED:
            return
        seconds = {bursts[name]: _tokens(bursts[name]) / cases[name]["one"]["tok_s"] for name in bursts}
        cost = fitted(seconds, one, config, self._settings)
        for name, burst in bursts.items():
            staged = simulated(burst, layout, config, self._settings, cost)
            alone = simulated(burst, one, config, self._settings, cost)
            cases[name][way] |= {
                "idle_simulated": idle_shares(staged), "ratio_simulated": round(float(alone.now / staged.now), 3)
            }  # fmt: skip


def _tokens(burst: Burst) -> int:
    streams, length, tokens = burst
    return streams * (tokens if tokens > 1 else length)
