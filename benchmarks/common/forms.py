"""Checkpoints of a given form with random weights and no tokenizer, for benchmarks that need none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.peers.models import RANDOM
from weft.parallel.arch import parse_config
from weft.parallel.arch.params import param_specs

_COMMON = {"vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
FORMS: dict[str, dict[str, Any]] = {
    "smollm2": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1536, "rope_theta": 100000.0, **_COMMON,
    },
    **RANDOM,
    "llama-8b": {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336, "rope_theta": 500000.0,
        **_COMMON, "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip


def write_form(directory: Path, form: str, device: str) -> int:
    """A checkpoint of random bf16 weights, drawn on `device`; bytes that a step of one row reads of them."""
    architecture = "Qwen3ForCausalLM" if FORMS[form]["model_type"] == "qwen3" else "LlamaForCausalLM"
    config = {"hidden_act": "silu", "torch_dtype": "bfloat16", "architectures": [architecture], **FORMS[form]}
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    tensors: dict[str, torch.Tensor] = {}
    for spec in param_specs(parse_config(config)):
        drawn = torch.randn(spec.shape, device=device) * spec.shape[-1] ** -0.5
        tensors[spec.name] = (1 + drawn if "norm" in spec.name else drawn).bfloat16().cpu()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tied = config["tie_word_embeddings"]
    return sum(each.nbytes for name, each in tensors.items() if tied or "embed" not in name)
