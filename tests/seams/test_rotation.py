"""Rotation as values of a block, in a family that only this file defines, against a forward pass by hand.

A share of each head's dims, in pairs side by side, by a table of the layer's own or none, and queries that grow with
the position; with the biases and norms of q and k, which must be put in the same order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from tests.equivalence.harness import ALONE, EXACT, MIXED, make_executor, run_workload, same_bits
from weft.base.errors import ConfigError
from weft.base.fields import Fields
from weft.compute.ops.base import Numerics
from weft.compute.ops.reference.rope import build_cos_sin, frequencies
from weft.model.checkpoint.forms import forms
from weft.parallel.arch import ModelConfig, param_specs, parse_config
from weft.parallel.arch.block import Rope
from weft.parallel.arch.config import RopeConfig
from weft.parallel.arch.families import FAMILIES
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import read_block, read_config
from weft.parallel.arch.reading.rope import query_growth
from weft.parallel.layout.resolve import resolve

ROPES: tuple[Rope, ...] = ("local", "none", "global")
HEAD, ROTATED, HEADS, KV_HEADS, HIDDEN = 10, 6, 4, 2, 48
RAW: dict[str, Any] = {
    "architectures": ["TurningForCausalLM"],
    "model_type": "turning",
    "hidden_size": HIDDEN,
    "intermediate_size": 70,
    "num_hidden_layers": len(ROPES),
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "vocab_size": 101,
    "max_position_embeddings": 256,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.6,
        "llama_4_scaling_beta": 0.4,
        "original_max_position_embeddings": 3,
    },
    "rope_local_base_freq": 20.0,
    "torch_dtype": "float64",
}
LAYOUTS: tuple[dict[str, object], ...] = tuple(
    {**{f"attention.{name}": size for name, size in sizes.items()}, **rest}
    for rest in ({}, {"lm_head.tp": 1}, {"o_proj.tp": 1}, {"pipeline.stages": 2})
    for sizes in (
        {"tp": 2}, {"tp": 4}, {"tp": 3}, {"dp": 2}, {"tp": 2, "dp": 2}, {"cp": 2}, {"tp": 2, "cp": 2}, {"cp": 4},
        {"tp": 4, "kv_split": 2},
    )
)  # fmt: skip


def _config(fields: Fields) -> ModelConfig:
    block = replace(
        read_block(fields, partial=True),
        qkv_bias=True,
        qk_norm="head",
        ropes=ROPES,
        rope_interleaved=True,
        query_growth=query_growth(fields, 256),
    )
    return read_config(fields, "turning", block, theta=10000.0, local_theta=10000.0)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    family = ModelFamily(name="turning", architectures=("TurningForCausalLM",), config=_config)
    monkeypatch.setitem(FAMILIES, "turning", family)


def write(path: Path, weight: Callable[[str, Tensor], Tensor]) -> Path:
    draw = torch.Generator().manual_seed(3)
    names = {spec.name: spec.shape for spec in param_specs(parse_config(RAW))}
    weights = {name: weight(name, torch.randn(shape, generator=draw).double()) for name, shape in names.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(RAW))
    return path


def near_one(name: str, x: Tensor) -> Tensor:
    if x.dim() > 1:
        return x * ((8 if "embed" in name else 1) / math.sqrt(x.shape[-1]))
    return 0.3 * x if name.endswith("bias") else 1 + 0.3 * x


def on_the_grid(name: str, x: Tensor) -> Tensor:
    return (64 + 16 * x.clamp(-2, 2) if "norm" in name else 12 * x.clamp(-2, 2)).round().float() / 64


def rotated(x: Tensor, theta: float | None) -> Tensor:
    """[N, heads, dims], pairs side by side, turned by the rows' positions."""
    if theta is None:
        return x
    pairs = x[..., :ROTATED].unflatten(-1, (-1, 2))
    angles = torch.arange(len(x)).double()[:, None] / theta ** (torch.arange(ROTATED // 2).double() / (ROTATED // 2))
    turned = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((torch.view_as_real(turned).flatten(-2), x[..., ROTATED:]), -1)


def by_hand(w: dict[str, Tensor], ids: tuple[int, ...]) -> Tensor:
    """Logits of the last position."""
    x = w["model.embed_tokens.weight"][list(ids)]
    growth = torch.tensor([1 + 0.4 * math.log(1 + position // 3) for position in range(len(ids))], dtype=x.dtype)
    unseen = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for layer, kind in enumerate(ROPES):
        name, theta = f"model.layers.{layer}", {"global": 500.0, "local": 20.0, "none": None}[kind]
        attention = f"{name}.self_attn"
        h = rms_norm(x, (HIDDEN,), w[f"{name}.input_layernorm.weight"], 1e-6)
        q, k, v = (
            linear(h, w[f"{attention}.{each}_proj.weight"], w[f"{attention}.{each}_proj.bias"]).unflatten(1, (-1, HEAD))
            for each in "qkv"
        )
        q, k = (
            rotated(rms_norm(each, (HEAD,), w[f"{attention}.{part}_norm.weight"], 1e-6), theta)
            for part, each in (("q", q), ("k", k))
        )
        k, v = (each.repeat_interleave(HEADS // KV_HEADS, 1) for each in (k, v))
        scores = torch.einsum("nhd,mhd->hnm", q * growth[:, None, None], k) / HEAD**0.5
        found = torch.einsum("hnm,mhd->nhd", scores.masked_fill(unseen, -math.inf).softmax(-1), v)
        x = x + linear(found.flatten(1), w[f"{attention}.o_proj.weight"])
        h = rms_norm(x, (HIDDEN,), w[f"{name}.post_attention_layernorm.weight"], 1e-6)
        gate, up = (linear(h, w[f"{name}.mlp.{each}_proj.weight"]) for each in ("gate", "up"))
        x = x + linear(silu(gate) * up, w[f"{name}.mlp.down_proj.weight"])
    return linear(rms_norm(x, (HIDDEN,), w["model.norm.weight"], 1e-6)[-1], w["lm_head.weight"])


def furthest(path: Path, dtype: torch.dtype, sizes: dict[str, object], *, eager: bool = True) -> float:
    """The largest difference of a logit from the pass by hand, of the tokens that were chosen."""
    weights = load_file(path / "model.safetensors")
    most = 0.0
    results = run_workload(make_executor(path, resolve(sizes), Numerics(dtype)), MIXED)
    for prompt, found in zip(MIXED.prompts, results, strict=True):
        for number, logits in enumerate(found.logits):
            wanted = by_hand(weights, (*prompt, *found.tokens[:number]))
            most = max(most, float((logits.double() - wanted).abs().max()))
    return most


@pytest.mark.parametrize("sizes", [{}, {"attention.tp": 2}, {"attention.cp": 2}, {"pipeline.stages": 3}])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_it_equals_a_forward_pass_by_hand(
    tmp_path: Path, dtype: torch.dtype, most: float, sizes: dict[str, object]
) -> None:
    assert furthest(write(tmp_path, near_one), dtype, sizes) < most


def _lost(part: str) -> Callable[..., None]:
    """Faults of the order of rows: a tensor's mark is lost."""

    def mark(original: Callable[..., None], found: forms.NamedTensors, *args: Any) -> None:
        original(found, *args)
        for name, info in found.tensors.items():
            if name.endswith(part):
                found.tensors[name] = msgspec.structs.replace(info, heads=0)

    return mark


@pytest.mark.parametrize("part", ["q_norm.weight", "k_proj.bias", "q_proj.weight"])
def test_what_is_not_put_in_order_with_the_others_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    path, original, fault = write(tmp_path, near_one), forms._paired, _lost(part)
    monkeypatch.setattr(forms, "_paired", lambda *args: fault(original, *args))
    assert furthest(path, torch.float64, {}) > 1e-3


@pytest.mark.parametrize(
    "change",
    [{"query_growth": None}, {"ropes": ()}, {"ropes": ("global", "none", "global")}, {"query_growth": (0.4, 4)}],
)
def test_a_value_that_is_not_heeded_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    path = write(tmp_path, near_one)

    def config(fields: Fields) -> ModelConfig:
        read = _config(fields)
        return replace(read, block=replace(read.block, **change))

    family = replace(FAMILIES["turning"], config=config)
    monkeypatch.setitem(FAMILIES, "turning", family)
    assert furthest(path, torch.float64, {}) > 1e-3


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2, 3))])
def test_layouts_have_the_bits_of_one_rank(tmp_path: Path, part: int) -> None:
    path, tried = write(tmp_path, on_the_grid), 0
    reference = run_workload(make_executor(path, resolve({}), EXACT), ALONE)
    for sizes in LAYOUTS[part::4]:
        try:
            layout = resolve(sizes)
        except ConfigError:
            continue
        tried += 1
        assert same_bits(run_workload(make_executor(path, layout, EXACT), MIXED), reference), sizes
    assert tried >= 6


LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 9.0],
    "original_max_position_embeddings": 32,
}  # fmt: skip


def test_longrope_takes_its_factors_by_the_longest_context() -> None:
    read = parse_config({**RAW, "rope_parameters": {**RAW["rope_parameters"], **LONGROPE}})
    plain, _ = frequencies(RopeConfig(500.0), ROTATED, 256, 256)
    for served, name in ((32, "short_factor"), (33, "long_factor")):
        inverse, factor = frequencies(read.rope, ROTATED, 256, served)
        torch.testing.assert_close(inverse, plain / torch.tensor(LONGROPE[name], dtype=torch.float64))
        assert factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(32)))
    assert build_cos_sin(read.rope, ROTATED, 32, trained_positions=256).shape == (32, ROTATED)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5: 5 of 10 dims"),
        ({**LONGROPE, "long_factor": [1.0]}, "long_factor .*: legal: a list of 3 numbers"),
        ({**LONGROPE, "short_factor": None}, "short_factor is missing"),
        ({"rope_type": "spiral"}, "rope_type 'spiral': legal: default, linear, dynamic, llama3, yarn, longrope"),
        ({"llama_4_scaling_beta": -1}, "llama_4_scaling_beta -1"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config({**RAW, "rope_parameters": {**RAW["rope_parameters"], **change}})


def test_two_spellings_of_two_bases_are_one() -> None:
    nested = {"full_attention": RAW["rope_parameters"], "sliding_attention": {"rope_theta": 20.0}}
    spelled = {**RAW, "rope_parameters": nested, "partial_rotary_factor": 0.6}
    read, usual = parse_config(spelled), parse_config(RAW)
    assert (read.rope, read.local_rope) == (usual.rope, usual.local_rope)
