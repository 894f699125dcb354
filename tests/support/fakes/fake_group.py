"""A plan for ranks without torch, and the command that starts them."""

from __future__ import annotations

import sys
from pathlib import Path

from weft.base.settings import EngineConfig
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.launch_plan.timeouts import ProcessLimits
from weft.runtime.supervisor.processes import Spawner


def fake_plan(
    model: Path, limits: ProcessLimits, ranks: int = 2, replicas: int = 1, max_num_seqs: int = 64
) -> LaunchPlan:
    """Of `ranks` ranks that share collectives, in each replica."""
    layout = resolve({"attention.tp": 1, "attention.dp": ranks, "dense.tp": ranks, "replicas": replicas})
    engine = EngineConfig(kv_cache_memory=1 << 20, max_num_seqs=max_num_seqs)
    return plan_launch(open_checkpoint(model), layout, engine, limits=limits)


def spawner(behaviour: str) -> Spawner:
    """Of ranks that behave so."""
    return Spawner((sys.executable, "-m", "tests.support.fakes.fake_rank", behaviour))
