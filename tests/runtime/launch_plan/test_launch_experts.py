"""How routed experts are multiplied and reached: decided before a process starts, shown, refused with what is legal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.exact_model import write_random
from weft.base.errors import ConfigError
from weft.base.settings import EngineConfig
from weft.compute.native import missing_reason
from weft.model.checkpoint import open_checkpoint
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.moe_backend import resolve_moe_backend
from weft.runtime.launch_plan.plan import plan_launch

LIMITS: dict[str, Any] = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 16,
    "max_model_len": 32,
    "kv_cache_memory": 1 << 20,
}


@pytest.mark.parametrize(
    ("asked", "dtype", "experts", "hidden", "unpacked", "resolved"),
    [
        ("auto", "bfloat16", 8, 64, "", "packed"),
        ("auto", "bfloat16", 8, 64, "on cuda", "grouped"),
        ("auto", "float64", 8, 64, "", "packed"),
        ("auto", "float64", 8, 64, "on cuda", "plain"),
        ("auto", "bfloat16", 8, 60, "on cuda", "plain"),
        ("auto", "float32", 8, 60, "on cuda", "grouped"),
        ("auto", "bfloat16", 0, 64, "", "auto"),
        ("plain", "bfloat16", 8, 64, "", "plain"),
        ("packed", "bfloat16", 8, 64, "", "packed"),
        ("grouped", "float16", 8, 64, "on cuda", "grouped"),
    ],
)
def test_auto_takes_the_first_that_can_be(
    asked: str, dtype: str, experts: int, hidden: int, unpacked: str, resolved: str
) -> None:
    assert resolve_moe_backend(asked, dtype, experts, hidden, unpacked) == resolved


@pytest.mark.parametrize(
    ("asked", "dtype", "experts", "hidden", "why", "legal"),
    [
        ("grouped", "float64", 8, 64, "no grouped product in float64", ("auto", "packed", "plain")),
        ("grouped", "bfloat16", 8, 60, "60 x bfloat16 are no whole multiple of 16 bytes", ("auto", "packed", "plain")),
        ("plain", "bfloat16", 0, 64, "the model has no experts", ("auto",)),
    ],
)
def test_what_cannot_be_is_refused(
    asked: str, dtype: str, experts: int, hidden: int, why: str, legal: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_moe_backend(asked, dtype, experts, hidden, "")
    assert str(caught.value).startswith(f"moe_backend {asked}: ") and why in str(caught.value)
    assert caught.value.field == "moe_backend" and caught.value.legal == legal


def test_packed_products_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(ConfigError, match="moe_backend packed: on cuda; legal: auto, grouped, plain"):
        resolve_moe_backend("packed", "bfloat16", 8, 64, "on cuda")


def test_start_says_how_experts_are_computed_and_reached(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_random(tmp_path, "experts"))
    layout = resolve({"experts.dispatch": "all_to_all"}, 2, num_experts=5)
    plan = plan_launch(checkpoint, layout, EngineConfig(dtype="float32", **LIMITS))
    backend = "grouped" if missing_reason("step") else "packed"
    assert plan.engine.moe_backend == backend
    assert f"experts: {backend} matmuls, tokens reach them by all_to_all (as given)" in plan.settings()
    dense = open_checkpoint(write_random(tmp_path / "dense", "biased"))
    plan = plan_launch(dense, resolve({}), EngineConfig(dtype="float32", **LIMITS))
    assert not [line for line in plan.settings() if line.startswith("experts")]
    with pytest.raises(ConfigError, match="moe_backend plain: the model has no experts"):
        plan_launch(dense, resolve({}), EngineConfig(dtype="float32", moe_backend="plain", **LIMITS))
