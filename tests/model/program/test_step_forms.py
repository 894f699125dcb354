"""Steps that one dp group could run as a program and another cannot: all ranks run the same form, and answers stay."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.equivalence.harness import (
    LIMITS,
    Workload,
    checkpoint_at,
    make_executor,
    random_prompts,
    run_workload,
    same_bits,
)
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.base.step.plan import RankPlan, StepPlan
from weft.compute.ops.base import Numerics
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.resolve import resolve
from weft.runtime.supervisor.setups import eager_for_all

FP64 = Numerics(torch.float64)
SHARED: dict[str, dict[str, object]] = {
    "cp": {"attention.dp": 2, "attention.cp": 2},
    "kv_split": {"attention.dp": 2, "attention.tp": 2, "attention.kv_split": 2},
    "cp over stages": {"attention.dp": 2, "attention.cp": 2, "pipeline.stages": 2},
}
SIZES: dict[str, dict[str, object]] = {
    "dense": {"dense.tp": 4, "o_proj.tp": 4, "lm_head.tp": 4, "embedding.tp": 4},
    "all_gather": {"experts.ep": 4, "experts.dispatch": "all_gather"},
    "all_to_all": {"experts.ep": 4, "experts.dispatch": "all_to_all"},
}
WORKS = {
    "lone request": Workload(random_prompts((60,), 101), (0,), max_tokens=3, budget=288),
    "lone short request": Workload(random_prompts((3,), 101), (0,), max_tokens=3, budget=288),
    "prompt beside streams": Workload(random_prompts((3, 60, 5, 45), 101), (0, 2, 3, 5), max_tokens=8, budget=288),
    "chunks beside a prompt": Workload(random_prompts((60, 50, 9), 101), (0, 1, 3), max_tokens=5, budget=14),
}


@pytest.fixture(autouse=True)
def native() -> None:
    need("step", "comm")


def layout_of(path: Path, name: str, sizes: str) -> Layout:
    config = parse_config(checkpoint_at(path).config)
    return resolve(SHARED[name] | SIZES[sizes], num_experts=config.num_experts)


def kind(plan: StepPlan, group: int) -> str:
    """What a group's ranks would run if they decided alone."""
    part = plan.groups[group]
    if not part.num_rows:
        return "no rows"
    return "prompt" if part.runs else "streams"


def forms_of(executor: ProgramExecutor, work: Workload, met: Counter[tuple[str, ...]]) -> Any:
    """The outputs of a workload; counts in `met` the kinds of groups, and the form, of every step."""
    split = executor._plans.split

    def counted(plan: StepPlan) -> list[RankPlan]:
        parts = split(plan)
        met[(*sorted({kind(plan, group) for group in range(2)}), "eager" if parts[0].eager else "program")] += 1
        return parts

    executor._plans.split = counted  # type: ignore[method-assign]
    return run_workload(executor, work)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", SHARED)
def test_groups_with_unlike_work_meet_in_one_form(name: str, sizes: str, tmp_path: Path) -> None:
    path = write_random(tmp_path, "window" if sizes == "dense" else "latent")
    layout, met = layout_of(path, name, sizes), Counter[tuple[str, ...]]()
    shards = Shards(parse_config(checkpoint_at(path).config), layout)
    for work in WORKS.values():
        wanted = run_workload(make_executor(path, layout, FP64), work)
        with closing(ProgramExecutor(checkpoint_at(path), shards, FP64, LIMITS)) as executor:
            assert same_bits(forms_of(executor, work, met), wanted)
    assert {("no rows", "prompt", "eager"), ("prompt", "streams", "eager")} <= {*met}, met
    assert {("no rows", "streams", "program"), ("streams", "program")} <= {*met}, met


def test_a_plan_without_the_mark_is_refused_by_ranks(tmp_path: Path) -> None:
    path = write_random(tmp_path, "experts")
    executor = make_executor(path, layout_of(path, "cp", "all_to_all"), FP64)
    executor._plans = RankPlans(1, executor.owners)
    with pytest.raises(AssertionError):
        run_workload(executor, WORKS["lone request"])


def test_ranks_of_both_kinds_run_eagerly() -> None:
    where = ("rank 0", "rank 1", "rank 2")
    assert eager_for_all(where, {0: "", 1: "", 2: ""}) == ""
    assert eager_for_all(where, {0: "no compiler", 1: "no compiler", 2: "as asked"}) == ""
    assert eager_for_all(where, {2: "", 1: "no compiler", 0: ""}) == "rank 1 has no step program: no compiler"
