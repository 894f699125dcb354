"""Llama, SmolLM2: transformers' configuration_llama. Biases by `attention_bias` and `mlp_bias`."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import MLP_BIAS, attention_biases, no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block, (bias, o_bias) = read_block(fields), attention_biases(fields)
    no_windows(fields)
    mlp_bias = fields.flag("mlp_bias", False) and fields.flag(MLP_BIAS, True)
    return read_config(fields, "llama", replace(block, qkv_bias=bias, o_bias=o_bias, mlp_bias=mlp_bias))


FAMILY = ModelFamily(
    name="llama",
    architectures=("LlamaForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="llama", permuted=frozenset({"attn_q", "attn_k"})),
)
