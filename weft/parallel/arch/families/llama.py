"""Llama, SmolLM2: transformers' configuration_llama. Biases by `attention_bias` and `mlp_bias`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import MLP_BIAS, attention_biases, no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block, (bias, o_bias) = read_block(fields), attention_biases(fields)
    no_windows(fields)
    mlp_bias = fields.flag("mlp_bias", False) and fields.flag(MLP_BIAS, True)
    return read_config(fields, "llama", replace(block, qkv_bias=bias, o_bias=o_bias, mlp_bias=mlp_bias))


def _in_gguf(keys: Mapping[str, Any]) -> bool:
    return not keys.get("attention.sliding_window") and not keys.get("expert_count")


FAMILY = ModelFamily(
    name="llama",
    architectures=("LlamaForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="llama", chosen=_in_gguf, permuted=frozenset({"attn_q", "attn_k"})),
)
