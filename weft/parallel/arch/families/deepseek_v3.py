"""DeepSeek-V3, R1: transformers' configuration_deepseek_v3. A V2 with sigmoid scores of experts."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig, MoEConfig
from weft.parallel.arch.families.deepseek_v2 import (
    LATENT,
    LATENT_GGUF,
    experts,
    gguf_scores,
    grouped,
    latent_attention,
    latent_block,
)
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import checked_experts, read_config


def sigmoid_experts(fields: Fields) -> MoEConfig:
    """Chosen in groups by sigmoid scores and a correction."""
    moe, normalize = grouped(fields, experts(fields)), fields.flag("norm_topk_prob", False)
    moe = replace(moe, score="sigmoid", normalize=normalize, group_best=2, correction_bias=True)
    return checked_experts(fields, moe)


def _config(fields: Fields) -> ModelConfig:
    mla = latent_attention(fields, interleaved=fields.flag("rope_interleave", False))
    return read_config(fields, "deepseek_v3", latent_block(fields), moe=sigmoid_experts(fields), mla=mla)


FAMILY = ModelFamily(
    name="deepseek_v3",
    architectures=("DeepseekV3ForCausalLM",),
    config=_config,
    defaults={
        **LATENT,
        "max_position_embeddings": 4096,
        "num_nextn_predict_layers": 1,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
        "first_k_dense_replace": 3,
        "norm_topk_prob": True,
        "rope_interleave": True,
    },
    gguf=replace(
        LATENT_GGUF,
        chosen=lambda keys: gguf_scores(keys) != 1,
        keys={**LATENT_GGUF.keys, "expert_weights_norm": ("norm_topk_prob", bool)},
        fixed={**LATENT_GGUF.fixed, "norm_topk_prob": False},
        only={"expert_gating_func": 2},
    ),
    words={
        "n_routed_experts": ("num_local_experts", "n_routed_experts"),
        "num_nextn_predict_layers": ("num_nextn_predict_layers", "num_mtp_layers"),
    },
)
