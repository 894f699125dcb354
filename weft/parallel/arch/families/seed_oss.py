"""Seed-OSS: transformers' configuration_seed_oss. A Llama with a flag of its own for the bias of o_proj."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import MLP_BIAS, O_BIAS, no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block = replace(
        read_block(fields),
        qkv_bias=fields.flag("attention_bias", True),
        o_bias=fields.flag("attention_out_bias", False) and fields.flag(O_BIAS, True),
        mlp_bias=fields.flag("mlp_bias", False) and fields.flag(MLP_BIAS, True),
    )
    no_windows(fields)
    return read_config(fields, "seed_oss", block)


FAMILY = ModelFamily(
    name="seed_oss",
    architectures=("SeedOssForCausalLM",),
    config=_config,
    defaults={"max_position_embeddings": 524288, "num_key_value_heads": 8, "head_dim": 128},
)
