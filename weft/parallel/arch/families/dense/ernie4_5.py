"""ERNIE 4.5, dense: transformers' configuration_ernie4_5. A Llama whose rotated pairs stand side by side."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import MLP_BIAS, attention_biases, no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block = read_block(fields)
    no_windows(fields)
    bias, o_bias = attention_biases(fields, "use_bias")
    mlp_bias = bias and fields.flag(MLP_BIAS, True)
    block = replace(block, qkv_bias=bias, o_bias=o_bias, mlp_bias=mlp_bias, rope_interleaved=True)
    return read_config(fields, "ernie4_5", block)


FAMILY = ModelFamily(
    name="ernie4_5",
    architectures=("Ernie4_5ForCausalLM",),
    config=_config,
    gguf=GgufForm(
        architecture="ernie4_5",
        permuted=frozenset({"attn_q", "attn_k"}),
        words=lambda keys, tensors: {"use_bias": "blk.0.attn_q.bias" in tensors},
    ),
    defaults={
        "head_dim": 128,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
)
