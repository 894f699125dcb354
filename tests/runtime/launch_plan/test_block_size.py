"""How many tokens a KV block has by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import make_checkpoint, small_config
from tests.support.exact_model import write_random
from weft.base.settings import EngineConfig
from weft.compute.native import isa, libraries
from weft.compute.ops.native.attention import TOKENS
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import ModelConfig, parse_config
from weft.parallel.layout import resolve
from weft.runtime.launch_plan import block_size
from weft.runtime.launch_plan.block_size import TOKENS_OF_TILES, block_size_of
from weft.runtime.launch_plan.plan import plan_launch


@pytest.fixture
def config() -> ModelConfig:
    return parse_config(small_config())


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with tile registers, and a library for it."""
    monkeypatch.setattr(block_size, "kernels", lambda: "amx")


@pytest.mark.usefixtures("tiles")
def test_tile_registers_have_what_they_multiply_together(config: ModelConfig) -> None:
    assert block_size_of(EngineConfig(), "bfloat16", config) == 32
    assert block_size_of(EngineConfig(block_size=16), "bfloat16", config) == 16
    assert block_size_of(EngineConfig(), "float32", config) == 16
    assert block_size_of(EngineConfig(device="cuda"), "bfloat16", config) == 16


@pytest.mark.usefixtures("tiles")
def test_heads_that_do_not_fit_them_have_the_usual_one() -> None:
    assert block_size_of(EngineConfig(), "bfloat16", parse_config(small_config(head_dim=80))) == 16


def test_the_kernels_have_these_numbers() -> None:
    kernels = libraries.SOURCES / "kernels"
    assert f"constexpr int kKeyPanel = {TOKENS};" in (kernels / "attention" / "kv_cache.h").read_text()
    assert f"constexpr int kAmxStep = {TOKENS_OF_TILES};" in (kernels / "common" / "amx_registers.h").read_text()


@pytest.mark.usefixtures("tiles")
def test_latents_are_not_theirs(tmp_path: Path) -> None:
    latent = parse_config(open_checkpoint(write_random(tmp_path / "latent", "latent")).config)
    assert block_size_of(EngineConfig(), "bfloat16", latent) == 16


@pytest.mark.usefixtures("tiles")
def test_without_c_there_are_none(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_size, "kernels", lambda: None)
    assert block_size_of(EngineConfig(), "bfloat16", config) == 16


@pytest.mark.parametrize("variant", [name for name in isa.FLAGS if name != "amx"])
def test_other_cpus_have_the_usual_one(variant: str, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_size, "kernels", lambda: variant)
    assert block_size_of(EngineConfig(), "bfloat16", config) == 16


@pytest.mark.usefixtures("tiles")
def test_a_plan_has_decided_it_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.runtime.launch_plan.plan.common_kernels", lambda hosts: "amx")
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, small_config(), dtype="bfloat16"))
    plan = plan_launch(checkpoint, resolve({}), EngineConfig(kv_cache_memory=1 << 20))
    assert plan.engine.block_size == plan.engine.tokens_per_block == 32
    assert any("block_size 32" in line for line in plan.settings())
    assert EngineConfig().tokens_per_block == 16
