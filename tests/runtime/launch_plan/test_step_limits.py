"""Tokens of a step where none are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import make_checkpoint, small_config
from weft.base.settings import EngineConfig
from weft.compute.comm.mailboxes import mailboxes_of
from weft.engine.core.limits import limits_of
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout import Layout, resolve
from weft.runtime.launch_plan.plan import LaunchPlan, plan_launch
from weft.runtime.launch_plan.step_limits import with_step_tokens


def layout_of(stages: int, **attention: int) -> Layout:
    """`stages`, and sizes of attention."""
    return resolve({f"attention.{name}": size for name, size in attention.items()} | {"pipeline.stages": stages})


@pytest.mark.parametrize(("stages", "tokens"), [(1, 2048), (2, 512), (3, 320), (4, 256), (8, 256)])
def test_stages_have_shorter_steps(stages: int, tokens: int) -> None:
    assert with_step_tokens(EngineConfig(), layout_of(stages=stages)).max_num_batched_tokens == tokens


@pytest.mark.parametrize("stages", [1, 4])
def test_what_is_asked_for_stays(stages: int) -> None:
    asked = EngineConfig(max_num_batched_tokens=2048)
    assert with_step_tokens(asked, layout_of(stages=stages)) == asked


def test_every_running_request_has_a_row() -> None:
    assert with_step_tokens(EngineConfig(max_num_seqs=300), layout_of(stages=4)).max_num_batched_tokens == 300


@pytest.mark.parametrize(("sizes", "tokens"), [({"cp": 2}, 512), ({"cp": 3}, 528)])
def test_whole_chunks_of_context_parallel_ranks_fit(sizes: dict[str, Any], tokens: int) -> None:
    layout = layout_of(stages=2, **sizes)
    engine = with_step_tokens(EngineConfig(max_model_len=64), layout)
    limits = limits_of(engine, 8, layout=layout)
    assert limits.max_num_batched_tokens == tokens and tokens % limits.chunk == 0


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, small_config(num_hidden_layers=2)))
    return plan_launch(checkpoint, layout_of(stages=2), EngineConfig(kv_cache_memory=1 << 20))


def test_a_plan_has_decided_it_and_says_so(plan: LaunchPlan) -> None:
    assert plan.engine.max_num_batched_tokens == plan.engine.tokens_per_step == 512
    assert any("max_num_batched_tokens 512" in line for line in plan.settings())
    asked = EngineConfig(dtype="float32", max_num_batched_tokens=2048)
    decided = EngineConfig(dtype="float32", max_num_batched_tokens=512)
    assert mailboxes_of(plan.shards, asked).nbytes > mailboxes_of(plan.shards, decided).nbytes
