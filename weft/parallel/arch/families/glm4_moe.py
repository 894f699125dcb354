"""GLM-4.5 to 4.7: transformers' configuration_glm4_moe. Half of each head is rotated; experts as in DeepSeek-V3."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families.deepseek_v2 import EXPERTS_GGUF, EXPERTS_GGUF_FIXED
from weft.parallel.arch.families.deepseek_v3 import sigmoid_experts
from weft.parallel.arch.family import GgufForm, ModelFamily, gguf_rotary_share
from weft.parallel.arch.reading.config import no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block, normed = read_block(fields, partial=True), fields.flag("use_qk_norm", False)
    no_windows(fields)
    block = replace(block, qkv_bias=fields.flag("attention_bias", False), qk_norm="head" if normed else "none")
    return read_config(fields, "glm4_moe", block, moe=sigmoid_experts(fields))


def _gguf_words(keys: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    return {**gguf_rotary_share(keys), "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors}


FAMILY = ModelFamily(
    name="glm4_moe",
    architectures=("Glm4MoeForCausalLM",),
    config=_config,
    defaults={
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 1,
    },
    gguf=GgufForm(
        architecture="glm4moe",
        keys={**EXPERTS_GGUF, "expert_weights_norm": ("norm_topk_prob", bool)},
        fixed={**EXPERTS_GGUF_FIXED, "norm_topk_prob": False},
        words=_gguf_words,
        only={"expert_gating_func": 2},
        unused=frozenset({"rope.dimension_count", "rope.dimension_sections"}),
        tensors={"post_attention_norm": "post_attention_layernorm"},
    ),
    words={
        "n_routed_experts": ("num_local_experts", "n_routed_experts"),
        "num_nextn_predict_layers": ("num_nextn_predict_layers", "num_mtp_layers"),
    },
)
