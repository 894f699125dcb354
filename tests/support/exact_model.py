"""Small checkpoints whose arithmetic is exact: weights in multiples of 2^-6 with |w| <= 1/2 (and random fp64 twins)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from weft.parallel.arch import param_specs, parse_config

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,  # alike: one that hands on every row, and the last, in which only sampled rows go on
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}
VARIANTS: dict[str, dict[str, Any]] = {
    # attention and MLP biases, untied: every addend that a reduction could count twice
    "biased": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "qk_norm": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    # one KV head, which any ranks share, and windows that end inside a context
    "window": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_key_value_heads": 1,
        "sliding_window": 9,
    },
    # half of each head is rotated, and every second layer has no rotary embedding
    "rotation": {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "num_hidden_layers": 3,
        "no_rope_layer_interval": 2,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 9,
    },
    # enough layers for uneven pipeline stages
    "deep": {"num_hidden_layers": 5, "attention_bias": True, "mlp_bias": True},
    # uneven experts, every layer routed
    "experts": {
        "num_hidden_layers": 3,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 22,
        "norm_topk_prob": True,
    },
    # latents, grouped sigmoid routing with a correction, shared experts, one dense layer
    "latent": {
        "num_hidden_layers": 3,
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 22,
        "first_k_dense_replace": 1,
        "n_group": 3,
        "topk_group": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
    },
}


def exact_config(variant: str) -> dict[str, Any]:
    """config.json of a variant."""
    return {**BASE, **VARIANTS[variant]}


def write_exact(
    directory: Path,
    variant: str,
    *,
    seed: int = 0,
    changed: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, x: x,
) -> Path:
    """Writes a checkpoint with weights in multiples of 2^-6, |w| <= 3/8; norms in [1/2, 3/2]. `changed`: what a weight
    becomes."""
    draw = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        low, high = (32, 97) if "norm" in name else (-24, 25)
        return changed(name, torch.randint(low, high, shape, generator=draw).float() / 64)

    return _write(directory, exact_config(variant), tensor)


def write_random(directory: Path, variant: str, *, seed: int = 0, sizes: Mapping[str, Any] | None = None) -> Path:
    """Writes random fp64 weights, scaled so that activations stay near 1; `sizes` changes the config."""
    draw = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        x = torch.randn(shape, generator=draw, dtype=torch.float64)
        if "norm" in name:
            return 1 + 0.2 * x
        return x * (8 if "embed" in name else 1) / math.sqrt(shape[-1])

    config = {**exact_config(variant), **(sizes or {}), "torch_dtype": "float64"}
    return _write(directory, config, tensor)


def _write(directory: Path, config: dict[str, Any], tensor: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    names = {spec.name: spec.shape for spec in param_specs(parse_config(config))}
    tensors = {name: tensor(name, shape).contiguous() for name, shape in names.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
