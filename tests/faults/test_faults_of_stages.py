"""Each pipeline stage is killed or suspended in the middle of requests: its rank is named, at once or at the step
limit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.native_libraries import need
from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import PATIENCE_S
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.launch_plan.timeouts import ProcessLimits
from weft.runtime.supervisor.start import start_workers

STEP_LIMIT_S = 3.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def failure(model: Path, stage: int, sent: signal.Signals) -> tuple[str, float]:
    """What ends requests whose stage gets a signal, and after how many seconds."""
    need("comm")
    limits = ProcessLimits(step_limit=STEP_LIMIT_S)
    plan = plan_launch(
        open_checkpoint(model), resolve({"pipeline.stages": 2}), EngineConfig(kv_cache_memory=1 << 20), limits=limits
    )
    executor = start_workers(plan)
    try:
        engine = Engine(executor, plan.engine, plan.eos_token_ids)
        for number in range(4):
            engine.add_request(str(number), [1, 2, 3 + number], SamplingParams(max_tokens=30, ignore_eos=True))
        for _ in range(6):
            engine.step()
        os.kill(executor.workers[stage].pid, sent)
        began = time.monotonic()
        while engine.has_work and engine.failure is None:
            engine.step()
        assert engine.failure is not None
        return engine.failure, time.monotonic() - began
    finally:
        executor.close()


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_stage_is_named_at_once(model: Path, stage: int) -> None:
    said, seconds = failure(model, stage, signal.SIGKILL)
    assert f"rank {stage} (stage {stage}) pid" in said and "was killed by SIGKILL in phase serving" in said
    assert seconds < PATIENCE_S


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1])
def test_a_suspended_stage_is_named_at_the_step_limit(model: Path, stage: int) -> None:
    said, seconds = failure(model, stage, signal.SIGSTOP)
    assert f"rank {stage} (stage {stage}) pid" in said and "is suspended (SIGSTOP)" in said
    assert STEP_LIMIT_S <= seconds < STEP_LIMIT_S + PATIENCE_S
