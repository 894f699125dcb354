"""Ranks' processes that compute with torch's operations: no C++, a dtype without kernels, or experts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.supervisor.start import Starting

LIMITS: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 32}


def answers(model: Path, tp: int, **settings: Any) -> list[list[int]]:
    """Greedy ids of two prompts, from ranks in processes of their own."""
    config = EngineConfig(**{**LIMITS, "kv_cache_memory": 1 << 20, **settings})
    checkpoint = open_checkpoint(model)
    experts = int(checkpoint.config.get("num_experts") or 0)
    starting = Starting(plan_launch(checkpoint, resolve({}, tp=tp, num_experts=experts), config))
    executor = starting.wait()
    try:
        engine = Engine(executor, starting.plan.engine, ())
        found: dict[str, list[int]] = {"0": [], "1": []}
        for name in found:
            ids = [7 * place % 100 + int(name) for place in range(5)]
            engine.add_request(name, ids, SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True))
        while engine.has_work:
            for output in engine.step():
                found[output.request_id] += output.new_token_ids
        assert engine.failure is None
        return list(found.values())
    finally:
        executor.close()


def test_without_c_the_answers_are_those_of_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("step")
    model = write_random(tmp_path, "tied")
    wanted = answers(model, 1, dtype="float64")
    monkeypatch.setenv("WEFT_NATIVE", "0")
    assert answers(model, 2, dtype="float64") == wanted


@pytest.mark.parametrize("quantization", ["int8", pytest.param("int4", marks=pytest.mark.long)])
def test_rows_of_8_bits_without_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    monkeypatch.setenv("WEFT_NATIVE", "0")
    model = write_random(tmp_path, "tied")
    found = answers(model, 2, dtype="float32", quantization=quantization, activations="int8")
    assert [len(ids) for ids in found] == [6, 6]


def test_a_dtype_without_kernels_is_served(tmp_path: Path) -> None:
    found = answers(write_random(tmp_path, "biased"), 1, dtype="float16")
    assert [len(ids) for ids in found] == [6, 6]


@pytest.mark.parametrize("backend", [pytest.param("plain", marks=pytest.mark.long), "grouped"])
def test_experts_that_torch_multiplies(tmp_path: Path, backend: str) -> None:
    need("step")
    model = write_random(tmp_path, "experts", sizes={"hidden_size": 64, "moe_intermediate_size": 24})
    dtype = "float64" if backend == "plain" else "float32"
    found = answers(model, 1, dtype=dtype, moe_backend=backend)
    assert found == answers(model, 1, dtype=dtype)
