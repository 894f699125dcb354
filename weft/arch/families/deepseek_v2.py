"""DeepSeek-V2: transformers' configuration_deepseek_v2. Latent attention; experts chosen by softmax scores."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.block import BlockSpec
from weft.arch.config import MLAConfig, ModelConfig, MoEConfig
from weft.arch.family import ModelFamily, Raw
from weft.arch.reading import checked_experts, read_block, read_config, size, upper_layers, windows
from weft.errors import ConfigError


def latent_block(raw: Raw) -> BlockSpec:
    """The block of DeepSeek-V2 and V3."""
    block = read_block(raw)
    if raw.get("attention_bias", False):
        raise ConfigError("attention_bias true: not supported for DeepSeek", field="attention_bias", value=True)
    return replace(block, windows=windows(raw, upper_layers(raw)))


def latent_attention(raw: Raw) -> MLAConfig:
    """The dims of latents and heads."""
    return MLAConfig(
        q_lora_rank=size(raw, "q_lora_rank") if raw.get("q_lora_rank") is not None else 0,
        kv_lora_rank=size(raw, "kv_lora_rank"),
        nope_dim=size(raw, "qk_nope_head_dim"),
        rope_dim=size(raw, "qk_rope_head_dim"),
        v_dim=size(raw, "v_head_dim"),
        interleaved=bool(raw.get("rope_interleave", True)),
    )


def experts(raw: Raw) -> MoEConfig:
    """Sizes and places of experts, the choice by softmax scores without groups."""
    wide = size(raw, "moe_intermediate_size")
    return MoEConfig(
        num_experts=size(raw, "n_routed_experts", raw.get("num_local_experts")),
        top_k=size(raw, "num_experts_per_tok"),
        intermediate_size=wide,
        shared_intermediate_size=wide * int(raw.get("n_shared_experts") or 0),
        first_layer=int(raw.get("first_k_dense_replace", 0)),
        step=int(raw.get("moe_layer_freq", 1)),
        normalize=False,
        scale=float(raw.get("routed_scaling_factor", 1.0)),
    )


def grouped(raw: Raw, moe: MoEConfig) -> MoEConfig:
    """`moe` with the groups of experts that config.json has."""
    return replace(moe, groups=size(raw, "n_group", 1), top_groups=size(raw, "topk_group", 1))


def _config(raw: Raw) -> ModelConfig:
    block, moe = latent_block(raw), experts(raw)
    if raw.get("topk_method") == "group_limited_greedy":
        moe = grouped(raw, moe)
    return read_config(raw, "deepseek_v2", block, moe=checked_experts(moe), mla=latent_attention(raw))


FAMILY = ModelFamily(name="deepseek_v2", architectures=("DeepseekV2ForCausalLM",), config=_config)
