"""DeepSeek-V3, R1: transformers' configuration_deepseek_v3. A V2 with sigmoid scores of experts."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig, MoEConfig
from weft.arch.families.deepseek_v2 import experts, grouped, latent_attention, latent_block
from weft.arch.family import ModelFamily, Raw
from weft.arch.reading import checked_experts, read_config


def _experts(raw: Raw) -> MoEConfig:
    moe, normalize = grouped(raw, experts(raw)), bool(raw.get("norm_topk_prob", True))
    return checked_experts(replace(moe, score="sigmoid", normalize=normalize, group_best=2, correction_bias=True))


def _config(raw: Raw) -> ModelConfig:
    return read_config(raw, "deepseek_v3", latent_block(raw), moe=_experts(raw), mla=latent_attention(raw))


FAMILY = ModelFamily(name="deepseek_v3", architectures=("DeepseekV3ForCausalLM",), config=_config)
