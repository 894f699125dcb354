"""DeepSeek-V2: transformers' configuration_deepseek_v2. Latent attention; experts chosen by softmax scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from weft.base.fields import Fields
from weft.parallel.arch.block import BlockSpec
from weft.parallel.arch.config import MLAConfig, ModelConfig, MoEConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import (
    MOST_EXPERTS,
    MOST_LAYERS,
    MOST_WIDTH,
    checked_experts,
    no_windows,
    read_block,
    read_config,
)

METHODS = ("greedy", "group_limited_greedy")
"""Of DeepSeek-V2's `topk_method`."""


LATENT = {
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
"""What a config.json without these dims means."""


def latent_block(fields: Fields) -> BlockSpec:
    """The block of DeepSeek-V2 and V3."""
    block = read_block(fields)
    no_windows(fields)
    if fields.flag("attention_bias", False):
        raise fields.wrong("attention_bias", "false", "biases are not supported for DeepSeek")
    return block


def latent_attention(fields: Fields, *, interleaved: bool) -> MLAConfig:
    """The dims of latents and heads. `interleaved`: rotated pairs stand side by side."""
    rope_dim = fields.whole("qk_rope_head_dim", high=MOST_WIDTH)
    if rope_dim % 2:
        raise fields.wrong("qk_rope_head_dim", "an even number", "rotary embedding turns pairs")
    return MLAConfig(
        q_lora_rank=fields.whole("q_lora_rank", 0, low=0, high=MOST_WIDTH),
        kv_lora_rank=fields.whole("kv_lora_rank", high=MOST_WIDTH),
        nope_dim=fields.whole("qk_nope_head_dim", high=MOST_WIDTH),
        rope_dim=rope_dim,
        v_dim=fields.whole("v_head_dim", high=MOST_WIDTH),
        interleaved=interleaved,
    )


def experts(fields: Fields) -> MoEConfig:
    """Sizes and places of experts, the choice by softmax scores without groups."""
    wide = fields.whole("moe_intermediate_size", high=MOST_WIDTH)
    return MoEConfig(
        num_experts=fields.whole("n_routed_experts", high=MOST_EXPERTS),
        top_k=fields.whole("num_experts_per_tok"),
        intermediate_size=wide,
        shared_intermediate_size=wide * fields.whole("n_shared_experts", 0, low=0, high=1024),
        first_layer=fields.whole("first_k_dense_replace", 0, low=0, high=MOST_LAYERS),
        normalize=False,
        scale=fields.number("routed_scaling_factor", 1.0),
    )


def grouped(fields: Fields, moe: MoEConfig) -> MoEConfig:
    """`moe` with the groups of experts that config.json has."""
    return replace(moe, groups=fields.whole("n_group", 1), top_groups=fields.whole("topk_group", 1))


def _config(fields: Fields) -> ModelConfig:
    block, moe = latent_block(fields), experts(fields)
    if fields.word("topk_method", METHODS, "greedy") == "group_limited_greedy":
        moe = grouped(fields, moe)
    mla = latent_attention(fields, interleaved=True)  # whatever rope_interleave says, as in transformers
    return read_config(fields, "deepseek_v2", block, moe=checked_experts(fields, moe), mla=mla)


def gguf_latents(keys: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """Dims of heads, and what the rotary scaling has in common for both factors. Newer files keep a head's dims beside
    those of the latents, which are one head there."""
    form = "_mla" if "attention.key_length_mla" in keys else ""
    nope = keys.get(f"attention.key_length{form}", 0) - keys.get("rope.dimension_count", 0)
    words = {"qk_nope_head_dim": nope, "v_head_dim": keys.get(f"attention.value_length{form}", 0)}
    if factor := keys.get("rope.scaling.yarn_log_multiplier"):
        both = round(10 * factor, 6)  # a tenth of it is stored
        words["rope_scaling"] = {"mscale": both, "mscale_all_dim": both}
    return words


SIGMOID_47 = {"block_count": (47, 48), "vocab_size": (154880,)}
"""Of GLM-4.7-Flash, whose first files do not say how experts are scored."""


def gguf_scores(keys: Mapping[str, Any]) -> int:
    """1: softmax; 2: sigmoid."""
    unsaid = 2 if all(keys.get(key) in values for key, values in SIGMOID_47.items()) else 1
    return int(keys.get("expert_gating_func", unsaid))


def _gguf_words(keys: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    grouped = keys.get("expert_group_count", 1) > 1
    return {**gguf_latents(keys, tensors), "topk_method": "group_limited_greedy" if grouped else "greedy"}


EXPERTS_GGUF: dict[str, tuple[str, type]] = {
    "expert_count": ("n_routed_experts", int),
    "expert_used_count": ("num_experts_per_tok", int),
    "expert_feed_forward_length": ("moe_intermediate_size", int),
    "expert_shared_count": ("n_shared_experts", int),
    "expert_weights_scale": ("routed_scaling_factor", float),
    "expert_group_count": ("n_group", int),
    "expert_group_used_count": ("topk_group", int),
    "leading_dense_block_count": ("first_k_dense_replace", int),
}
EXPERTS_GGUF_FIXED: dict[str, Any] = {
    "n_shared_experts": 0, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0,
}  # fmt: skip
LATENT_GGUF = GgufForm(
    architecture="deepseek2",
    keys={
        **EXPERTS_GGUF,
        "attention.q_lora_rank": ("q_lora_rank", int),
        "attention.kv_lora_rank": ("kv_lora_rank", int),
        "rope.dimension_count": ("qk_rope_head_dim", int),
    },
    fixed={**EXPERTS_GGUF_FIXED, "q_lora_rank": None},
    words=gguf_latents,
    unused=frozenset(
        {
            "attention.key_length", "attention.value_length", "attention.key_length_mla", "attention.value_length_mla",
            "rope.scaling.yarn_log_multiplier",
        }
    ),
    tensors={
        "attn_q_a": "self_attn.q_a_proj",
        "attn_q_a_norm": "self_attn.q_a_layernorm",
        "attn_q_b": "self_attn.q_b_proj",
        "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_norm": "self_attn.kv_a_layernorm",
        "attn_kv_b": "self_attn.kv_b_proj",
        "attn_k_b": "self_attn.k_b_proj",
        "attn_v_b": "self_attn.v_b_proj",
    },
)  # fmt: skip
"""What files of latent attention have in common. Rows are not permuted: rotated pairs stand side by side anyway."""


FAMILY = ModelFamily(
    name="deepseek_v2",
    architectures=("DeepseekV2ForCausalLM",),
    config=_config,
    defaults={**LATENT, "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407},
    words={"n_routed_experts": ("num_experts", "n_routed_experts")},
    gguf=replace(
        LATENT_GGUF,
        chosen=lambda keys: gguf_scores(keys) == 1,
        words=_gguf_words,
        only={"expert_gating_func": 1, "expert_weights_norm": False},
    ),
)
