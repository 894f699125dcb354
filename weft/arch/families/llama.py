"""Llama, SmolLM2: transformers' configuration_llama. Biases by `attention_bias` and `mlp_bias`."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig
from weft.arch.family import GgufForm, ModelFamily, Raw
from weft.arch.reading import read_block, read_config


def _config(raw: Raw) -> ModelConfig:
    bias, block = bool(raw.get("attention_bias", False)), read_block(raw)
    block = replace(block, qkv_bias=bias, o_bias=bias, mlp_bias=bool(raw.get("mlp_bias", False)))
    return read_config(raw, "llama", block)


FAMILY = ModelFamily(
    name="llama",
    architectures=("LlamaForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="llama", permuted=frozenset({"attn_q", "attn_k"})),
)
