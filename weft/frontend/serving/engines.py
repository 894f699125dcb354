"""From a plan and its ready ranks to an engine, with the balancing of experts that the plan asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from weft.engine.core.engine import Engine
from weft.engine.core.executor import Executor
from weft.parallel.arch.stages import keys_per_row
from weft.parallel.experts.balancing.expert_balancing import ExpertBalancing
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.runtime.launch_plan.plan import LaunchPlan


def balancing_of(plan: LaunchPlan) -> ExpertBalancing | None:
    """The part of the engine that counts and moves experts, where the plan asks for it. ConfigError: statistics cannot
    be written."""
    return None if plan.experts is None else plan.experts.balancing(Path(plan.checkpoint.path).name)


def with_placement(plan: LaunchPlan, placement: ExpertPlacement) -> LaunchPlan:
    """The plan for ranks that load `placement`."""
    assert plan.experts is not None
    return replace(plan, experts=replace(plan.experts, placement=placement))


def make_engine(executor: Executor, plan: LaunchPlan, balancing: ExpertBalancing | None) -> Engine:
    """The engine over ranks that were started by `plan`."""
    vocab_size, keys = plan.config.vocab_size, keys_per_row(plan.config)
    return Engine(
        executor, plan.engine, plan.eos_token_ids, vocab_size=vocab_size, balancing=balancing, keys_per_row=keys
    )
