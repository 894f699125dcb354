"""Qwen2, Qwen2.5: transformers' configuration_qwen2. Biases of q, k and v; windows in upper layers."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig
from weft.arch.family import GgufForm, ModelFamily, Raw
from weft.arch.reading import read_block, read_config, upper_layers, windows


def _config(raw: Raw) -> ModelConfig:
    block = read_block(raw)
    return read_config(raw, "qwen2", replace(block, qkv_bias=True, windows=windows(raw, upper_layers(raw))))


FAMILY = ModelFamily(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="qwen2"),
)
