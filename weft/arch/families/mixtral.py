"""Mixtral: transformers' configuration_mixtral. A Mistral with experts in every layer."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig, MoEConfig
from weft.arch.family import ModelFamily, Raw, TensorNames
from weft.arch.reading import checked_experts, read_block, read_config, size, windows


def _experts(raw: Raw) -> MoEConfig:
    return checked_experts(
        MoEConfig(
            num_experts=size(raw, "num_local_experts"),
            top_k=size(raw, "num_experts_per_tok", 2),
            intermediate_size=size(raw, "intermediate_size"),
        )
    )


def _config(raw: Raw) -> ModelConfig:
    block = read_block(raw)
    all_layers = [True] * size(raw, "num_hidden_layers")
    return read_config(raw, "mixtral", replace(block, windows=windows(raw, all_layers)), moe=_experts(raw))


FAMILY = ModelFamily(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    config=_config,
    names=TensorNames(experts="block_sparse_moe", expert_gate_up=("w1", "w3"), expert_down="w2"),
)
