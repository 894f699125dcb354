"""Seed-OSS: transformers' configuration_seed_oss. A Llama with biases of q, k and v."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import MLP_BIAS, no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block = read_block(fields)
    no_windows(fields)
    bias, o_bias = fields.flag("attention_bias", False), fields.flag("attention_out_bias", False)
    mlp_bias = fields.flag("mlp_bias", False) and fields.flag(MLP_BIAS, True)
    block = replace(block, qkv_bias=bias, o_bias=o_bias, mlp_bias=mlp_bias)
    return read_config(fields, "seed_oss", block)


FAMILY = ModelFamily(
    name="seed_oss",
    architectures=("SeedOssForCausalLM",),
    config=_config,
    gguf=GgufForm(
        architecture="seed_oss",
        words=lambda keys, tensors: {"attention_out_bias": "blk.0.attn_output.bias" in tensors},
        tensors={"post_attention_norm": "post_attention_layernorm"},
    ),
    defaults={
        "attention_bias": True,
        "head_dim": 128,
        "num_key_value_heads": 8,
        "max_position_embeddings": 524288,
    },
)
