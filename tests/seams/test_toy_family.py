"""A family that only this file defines is served, explained and verified, and equals a forward pass by hand.

It has words and tensor names of its own, biases of q, k and v and of the MLP, norms of q and k, a softmax scale and a
window in every second layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from tests.seams.family_conformance import check_family
from weft.base.fields import Fields
from weft.base.settings import EngineConfig
from weft.base.step.sampling_params import SamplingParams
from weft.cli.main import main
from weft.compute.ops.base import Numerics
from weft.engine.core.engine import Engine
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import ModelConfig, Shards, param_specs, parse_config
from weft.parallel.arch.families import FAMILIES
from weft.parallel.arch.family import GgufForm, ModelFamily, TensorNames
from weft.parallel.arch.reading.config import layers_of, read_block, read_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.verify.record import LogitsRecorder, outcomes

Weights = dict[str, Tensor]


def _config(own: Fields) -> ModelConfig:
    usual = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    fields = Fields({usual.get(key, key): value for key, value in own.values.items()}, own.where)
    block = replace(
        read_block(fields),
        qkv_bias=True,
        mlp_bias=True,
        qk_norm="head",
        softmax_scale=fields.number("attention_multiplier") if "attention_multiplier" in fields else None,
        windows=tuple(5 if layer % 2 else 0 for layer in range(layers_of(fields))),
    )
    return read_config(fields, "toy", block)


TOY = ModelFamily(
    name="toy",
    architectures=("ToyForCausalLM",),
    config=_config,
    names=TensorNames(
        embedding="transformer.wte",
        layer="transformer.h.{}",
        norm="transformer.ln_f",
        attention_norm="ln_1",
        attention="attn",
        qkv=("query", "key", "value"),
        o_proj="out",
        dense_norm="ln_2",
        gate_up=("w1", "w3"),
        down="w2",
    ),
    gguf=GgufForm(architecture="toy"),
)
RAW: dict[str, Any] = {
    "architectures": ["ToyForCausalLM"],
    "model_type": "toy",
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size": 70,
    "vocab_size": 131,
    "max_position_embeddings": 128,
    "attention_multiplier": 0.21,
    "torch_dtype": "float64",
}
PROMPTS = ((3, 7, 1, 9, 120, 4, 4, 66, 30, 2, 17, 5, 90), (8,), (100, 99, 98, 97, 5, 1))
TOKENS = 5


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", TOY)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(3)
    weights = {}
    for spec in param_specs(parse_config(RAW)):
        x = torch.randn(spec.shape, generator=draw, dtype=torch.float64)
        matrix = x * (8 if "wte" in spec.name else 1) / spec.shape[-1] ** 0.5
        weights[spec.name] = matrix if x.dim() > 1 else (0.3 * x if spec.name.endswith("bias") else 1 + 0.3 * x)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    return tmp_path


def rotated(x: Tensor) -> Tensor:
    """[N, heads, dims] -> the same, turned by the rows' positions."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[0], dtype=torch.float64)[:, None] / 10000.0 ** (
        torch.arange(half, dtype=torch.float64) / half
    )
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attention(w: Weights, name: str, x: Tensor, window: int) -> Tensor:
    q, k, v = (linear(x, w[f"{name}.{each}.weight"], w[f"{name}.{each}.bias"]) for each in ("query", "key", "value"))
    q, k, v = q.view(len(x), 6, 10), k.view(len(x), 2, 10), v.view(len(x), 2, 10)
    q = rotated(rms_norm(q, (10,), w[f"{name}.q_norm.weight"], 1e-6))
    k = rotated(rms_norm(k, (10,), w[f"{name}.k_norm.weight"], 1e-6))
    k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    scores = 0.21 * torch.einsum("nhd,mhd->hnm", q, k)
    back = torch.arange(len(x))[:, None] - torch.arange(len(x))
    unseen = (back < 0) | (back >= (window or math.inf))
    found = torch.einsum("hnm,mhd->nhd", scores.masked_fill(unseen, -math.inf).softmax(-1), v)
    return linear(found.flatten(1), w[f"{name}.out.weight"])


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    gate, up = (linear(x, w[f"{name}.{each}.weight"], w[f"{name}.{each}.bias"]) for each in ("w1", "w3"))
    return linear(silu(gate) * up, w[f"{name}.w2.weight"], w[f"{name}.w2.bias"])


def by_hand(w: Weights, ids: tuple[int, ...]) -> Tensor:
    """Logits of the last position."""
    x = w["transformer.wte.weight"][list(ids)]
    for layer in range(3):
        name = f"transformer.h.{layer}"
        x = x + attention(w, f"{name}.attn", rms_norm(x, (48,), w[f"{name}.ln_1.weight"], 1e-6), 5 if layer % 2 else 0)
        x = x + mlp(w, f"{name}.mlp", rms_norm(x, (48,), w[f"{name}.ln_2.weight"], 1e-6))
    return linear(rms_norm(x, (48,), w["transformer.ln_f.weight"], 1e-6)[-1], w["lm_head.weight"])


def continued(w: Weights, prompt: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
    """(token, its logits), greedily."""
    for _ in range(TOKENS):
        logits = by_hand(w, prompt)
        token = int(logits.argmax())
        prompt = (*prompt, token)
        yield token, logits


def executor_of(path: Path, sizes: dict[str, object], dtype: torch.dtype, *, eager: bool) -> LockstepExecutor:
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve(sizes))
    limits = RankCapacity(num_blocks=40, block_size=8, max_num_seqs=4, max_model_len=64)
    return LockstepExecutor(checkpoint, shards, Numerics(dtype), limits, torch.device("cpu"), eager)


def test_toy_family_meets_the_seam() -> None:
    check_family(TOY, {**RAW, **{"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}})


SETTINGS = EngineConfig(max_model_len=64, max_num_seqs=4, max_num_batched_tokens=8, block_size=8)


@pytest.mark.parametrize("sizes", [{}, {"attention.tp": 2}, {"attention.tp": 2, "o_proj.tp": 1, "lm_head.tp": 1}])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_every_layout_equals_a_forward_pass_by_hand(
    model: Path, sizes: dict[str, object], dtype: torch.dtype, most: float
) -> None:
    weights = load_file(model / "model.safetensors")
    recorder = LogitsRecorder(executor_of(model, sizes, dtype, eager=True))
    results = outcomes(Engine(recorder, SETTINGS, ()), recorder, PROMPTS, TOKENS)
    for prompt, found in zip(PROMPTS, results, strict=True):
        tokens, logits = zip(*continued(weights, prompt), strict=True)
        assert found.tokens == list(tokens)
        torch.testing.assert_close(torch.stack(found.logits).double(), torch.stack(logits), atol=most, rtol=most)


def test_a_step_program_gives_the_same_tokens(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    engine = Engine(executor_of(model, {}, torch.float32, eager=False), SETTINGS, ())
    for index, prompt in enumerate(PROMPTS):
        engine.add_request(str(index), list(prompt), SamplingParams(temperature=0.0, max_tokens=TOKENS))
    found: list[list[int]] = [[] for _ in PROMPTS]
    while engine.has_work:
        for output in engine.step():
            found[int(output.request_id)].extend(output.new_token_ids)
    assert found == [[token for token, _ in continued(weights, prompt)] for prompt in PROMPTS]


def test_it_is_explained_and_verified(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(model), "--tp", "2"]) == 0
    assert "toy, 3 layers, hidden 48" in capsys.readouterr().out
    assert main(["verify", str(model), "--tokens", "3", "--comm", "lockstep", "--tp", "2"]) == 0
    assert "the layout agrees with one rank" in capsys.readouterr().out
