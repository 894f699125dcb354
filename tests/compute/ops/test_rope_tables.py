"""Rotary tables against transformers' own, for every scaling type; what is unknown or malformed is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from weft.base.errors import ConfigError
from weft.compute.ops.reference.rope import build_cos_sin, frequencies
from weft.parallel.arch.config import RopeConfig

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "old spelling": {"type": "linear", "factor": 2},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "llama3 of 32": {**LLAMA3, "factor": 32.0, "high_freq_factor": 5.0},
    "yarn": YARN,
    "yarn with attention factor": {**YARN, "attention_factor": 1.25},
    "yarn with mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0},
    "yarn with betas": {**YARN, "beta_fast": 16, "beta_slow": 2},
    "yarn not truncated": {**YARN, "truncate": False},
}
TRAINED = 2048


def theirs(scaling: dict[str, Any], theta: float, dim: int, seq_len: int | None = None) -> tuple[torch.Tensor, float]:
    sizes = {"hidden_size": dim * 4, "num_attention_heads": 4, "head_dim": dim, "max_position_embeddings": TRAINED}
    config = LlamaConfig.from_dict({**sizes, "rope_theta": theta, "rope_scaling": dict(scaling)})
    kind = scaling["rope_type"] if "rope_type" in scaling else scaling["type"]
    inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)
    return inverse.double(), float(factor)


@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_frequencies_are_those_of_transformers(scaling: dict[str, Any], theta: float, dim: int) -> None:
    inverse, factor = frequencies(RopeConfig(theta, scaling), dim, TRAINED, TRAINED)
    wanted, wanted_factor = theirs(scaling, theta, dim)
    assert factor == pytest.approx(wanted_factor, rel=1e-6)
    assert torch.allclose(inverse, wanted, rtol=2e-6, atol=0)


@pytest.mark.parametrize("scaling", [None, {}, {"rope_type": "default"}])
def test_without_scaling(scaling: dict[str, Any] | None) -> None:
    inverse, factor = frequencies(RopeConfig(10000.0, scaling), 8, TRAINED, TRAINED)
    assert factor == 1 and inverse.tolist() == pytest.approx([1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("served", [100, TRAINED, 3 * TRAINED])
def test_dynamic_scaling_is_that_of_the_longest_length_served(served: int) -> None:
    inverse, _ = frequencies(RopeConfig(10000.0, SCALINGS["dynamic"]), 64, TRAINED, served)
    wanted, _ = theirs(SCALINGS["dynamic"], 10000.0, 64, seq_len=served)
    assert torch.allclose(inverse, wanted, rtol=2e-6, atol=0)


def test_table_holds_cosines_then_sines() -> None:
    scaling = {**YARN, "attention_factor": 1.5}
    table = build_cos_sin(RopeConfig(10000.0, scaling), 16, 300, trained_positions=TRAINED, dtype=torch.float64)
    inverse, _ = frequencies(RopeConfig(10000.0, scaling), 16, TRAINED, 300)
    angles = torch.arange(300).double()[:, None] * inverse
    assert table.shape == (300, 16) and table.dtype == torch.float64
    assert torch.allclose(table, 1.5 * torch.cat((angles.cos(), angles.sin()), -1))
    assert build_cos_sin(RopeConfig(), 16, 3).dtype == torch.float32


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"rope_type": "longrope"}, "rope_scaling.short_factor: legal: a number for each of 8 pairs"),
        ({"rope_type": "spiral"}, "legal: default, linear, dynamic, llama3, yarn, longrope"),
        ({"rope_type": "linear"}, "rope_scaling.factor is missing"),
        ({"rope_type": "linear", "factor": "2"}, "rope_scaling.factor '2'"),
        ({"rope_type": "linear", "factor": float("nan")}, "rope_scaling.factor nan"),
        ({"rope_type": "linear", "factor": 0}, "above 0"),
        ({"rope_type": "llama3", "factor": 2.0}, "original_max_position_embeddings is missing"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(scaling: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_cos_sin(RopeConfig(10000.0, scaling), 16, 10)


def test_an_odd_head_dim_is_refused() -> None:
    with pytest.raises(ConfigError, match="head_dim 15"):
        build_cos_sin(RopeConfig(), 15, 10)
