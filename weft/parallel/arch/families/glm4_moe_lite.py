"""GLM-4.7-Flash: transformers' configuration_glm4_moe_lite. Latent attention and experts as in DeepSeek-V3."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig, MoEConfig
from weft.parallel.arch.families.deepseek_v2 import latent_attention, latent_block
from weft.parallel.arch.families.deepseek_v3 import sigmoid_experts
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import layers_of, read_config

KINDS = ("dense", "sparse")


def _experts(fields: Fields) -> MoEConfig:
    """In the layers that `mlp_layer_types` calls sparse; in all but the first where it is not given."""
    layers, kinds = layers_of(fields), fields.texts("mlp_layer_types")
    if kinds and (len(kinds) != layers or {*kinds} - {*KINDS}):
        raise fields.wrong("mlp_layer_types", f"{layers} of {' and '.join(KINDS)}, one for each layer")
    dense = tuple(layer for layer, kind in enumerate(kinds) if kind == KINDS[0]) if kinds else (0,)
    return replace(sigmoid_experts(fields), first_layer=0, dense_layers=dense)


def _config(fields: Fields) -> ModelConfig:
    block = latent_block(fields)
    mla = latent_attention(fields, interleaved=fields.flag("rope_interleave", False))
    return read_config(fields, "glm4_moe_lite", block, moe=_experts(fields), mla=mla)


FAMILY = ModelFamily(
    name="glm4_moe_lite",
    architectures=("Glm4MoeLiteForCausalLM",),
    config=_config,
    defaults={
        "q_lora_rank": 768,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 256,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "moe_intermediate_size": 1536,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "n_routed_experts": 64,
        "routed_scaling_factor": 1.8,
        "norm_topk_prob": True,
        "rope_interleave": True,
        "num_nextn_predict_layers": 1,
    },
    words={"n_routed_experts": ("num_local_experts", "n_routed_experts")},
)
