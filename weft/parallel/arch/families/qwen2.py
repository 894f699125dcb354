"""Qwen2, Qwen2.5: transformers' configuration_qwen2. Biases of q, k and v; windows in upper layers."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import read_block, read_config, upper_windows


def _config(fields: Fields) -> ModelConfig:
    block = replace(read_block(fields), qkv_bias=True, windows=upper_windows(fields))
    return read_config(fields, "qwen2", block)


FAMILY = ModelFamily(
    name="qwen2",
    architectures=("Qwen2ForCausalLM",),
    config=_config,
    defaults={"sliding_window": 4096, "max_window_layers": 28, "max_position_embeddings": 32768},
    gguf=GgufForm(architecture="qwen2"),
)
