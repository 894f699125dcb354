"""Mixtral: transformers' configuration_mixtral. A Mistral with experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig, MoEConfig
from weft.parallel.arch.family import GgufForm, ModelFamily, TensorNames
from weft.parallel.arch.reading.config import (
    MOST_EXPERTS,
    MOST_WIDTH,
    checked_experts,
    every_window,
    read_block,
    read_config,
)


def _experts(fields: Fields) -> MoEConfig:
    moe = MoEConfig(
        num_experts=fields.whole("num_local_experts", high=MOST_EXPERTS),
        top_k=fields.whole("num_experts_per_tok", 2),
        intermediate_size=fields.whole("intermediate_size", high=MOST_WIDTH),
    )
    return checked_experts(fields, moe)


def _config(fields: Fields) -> ModelConfig:
    block = replace(read_block(fields), windows=every_window(fields))
    return read_config(fields, "mixtral", block, moe=_experts(fields), theta=1e6)


FAMILY = ModelFamily(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    config=_config,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "num_local_experts": 8,
        "num_key_value_heads": 8,
    },
    words={"num_local_experts": ("num_experts", "num_local_experts")},
    gguf=GgufForm(
        architecture="llama",
        chosen=lambda keys: bool(keys.get("expert_count")),
        permuted=frozenset({"attn_q", "attn_k"}),
        keys={"expert_count": ("num_local_experts", int), "expert_used_count": ("num_experts_per_tok", int)},
    ),
    names=TensorNames(experts="block_sparse_moe", expert_gate_up=("w1", "w3"), expert_down="w2"),
)
