"""Qwen3: transformers' configuration_qwen3. Norms of q and k; biases by `attention_bias`; windows in upper layers."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.block import BlockSpec
from weft.arch.config import ModelConfig
from weft.arch.family import GgufForm, ModelFamily, Raw
from weft.arch.reading import read_block, read_config, upper_layers, windows


def qwen3_block(raw: Raw) -> BlockSpec:
    """The block of Qwen3 and Qwen3-MoE."""
    bias, block = bool(raw.get("attention_bias", False)), read_block(raw)
    return replace(block, qkv_bias=bias, o_bias=bias, qk_norm="head", windows=windows(raw, upper_layers(raw)))


def _config(raw: Raw) -> ModelConfig:
    return read_config(raw, "qwen3", qwen3_block(raw))


FAMILY = ModelFamily(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="qwen3"),
)
