"""DeepSeek-V3, R1: transformers' configuration_deepseek_v3. A V2 with sigmoid scores of experts."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig, MoEConfig
from weft.arch.families.deepseek_v2 import experts, grouped, latent_attention, latent_block
from weft.arch.family import ModelFamily
from weft.arch.reading.config import checked_experts, read_config
from weft.fields import Fields


def _experts(fields: Fields) -> MoEConfig:
    moe, normalize = grouped(fields, experts(fields)), fields.flag("norm_topk_prob", True)
    moe = replace(moe, score="sigmoid", normalize=normalize, group_best=2, correction_bias=True)
    return checked_experts(fields, moe)


def _config(fields: Fields) -> ModelConfig:
    block = latent_block(fields)
    return read_config(fields, "deepseek_v3", block, moe=_experts(fields), mla=latent_attention(fields))


FAMILY = ModelFamily(
    name="deepseek_v3",
    architectures=("DeepseekV3ForCausalLM",),
    config=_config,
    defaults={"max_position_embeddings": 4096, "num_nextn_predict_layers": 1},
)
