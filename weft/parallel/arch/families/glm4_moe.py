"""GLM-4.5 to 4.7: transformers' configuration_glm4_moe. Half of each head rotated, DeepSeek-V3's choice of experts."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families.deepseek_v3 import FAMILY as DEEPSEEK_V3
from weft.parallel.arch.families.deepseek_v3 import sigmoid_experts
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import no_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    block = replace(
        read_block(fields, partial=True),
        qkv_bias=fields.flag("attention_bias", False),
        qk_norm="head" if fields.flag("use_qk_norm", False) else "none",
    )
    no_windows(fields)
    return read_config(fields, "glm4_moe", block, moe=sigmoid_experts(fields))


FAMILY = ModelFamily(
    name="glm4_moe",
    architectures=("Glm4MoeForCausalLM",),
    config=_config,
    defaults={
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
    },
    words=DEEPSEEK_V3.words,
)
