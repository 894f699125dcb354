"""ERNIE 4.5: transformers' configuration_ernie4_5. A Llama with rotated pairs side by side and biases by one flag."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.block import BlockSpec
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import MLP_BIAS, attention_biases, no_windows, read_block, read_config


def ernie_block(fields: Fields) -> BlockSpec:
    """The block of ERNIE 4.5, with and without experts."""
    block = read_block(fields)
    no_windows(fields)
    bias, o_bias = attention_biases(fields, "use_bias")
    mlp_bias = bias and fields.flag(MLP_BIAS, True)
    return replace(block, qkv_bias=bias, o_bias=o_bias, mlp_bias=mlp_bias, rope_interleaved=True)


def _config(fields: Fields) -> ModelConfig:
    return read_config(fields, "ernie4_5", ernie_block(fields), theta=500000.0)


FAMILY = ModelFamily(
    name="ernie4_5",
    architectures=("Ernie4_5ForCausalLM",),
    config=_config,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
)
