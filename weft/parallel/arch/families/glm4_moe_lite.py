"""GLM-4.7-Flash: transformers' configuration_glm4_moe_lite. A DeepSeek-V3 whose config names its dense layers."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families.deepseek_v2 import latent_attention, latent_block
from weft.parallel.arch.families.deepseek_v3 import FAMILY as DEEPSEEK_V3
from weft.parallel.arch.families.deepseek_v3 import sigmoid_experts
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import layers_of, read_config

KINDS = ("dense", "sparse")


def _dense_layers(fields: Fields) -> tuple[int, ...]:
    """Those that `mlp_layer_types` names; the first where it is missing."""
    kinds, layers = fields.texts("mlp_layer_types"), layers_of(fields)
    if kinds and (len(kinds) != layers or not {*kinds} <= {*KINDS}):
        raise fields.wrong("mlp_layer_types", f"{layers} of {' and '.join(KINDS)}, one for each layer")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "dense") if kinds else (0,)


def _config(fields: Fields) -> ModelConfig:
    block, dense = latent_block(fields), _dense_layers(fields)
    routed = len(dense) < layers_of(fields)
    # the experts of DeepSeek-V3 begin at a layer by another field, which this family has not
    moe = (
        replace(sigmoid_experts(fields), first_layer=0, dense_layers=dense) if len(dense) < layers_of(fields) else None
    )
    mla = latent_attention(fields, interleaved=fields.flag("rope_interleave", False))
    return read_config(fields, "glm4_moe_lite", block, moe=moe if routed else None, mla=mla)


FAMILY = ModelFamily(
    name="glm4_moe_lite",
    architectures=("Glm4MoeLiteForCausalLM",),
    config=_config,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 202752,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 768,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 256,
        "n_routed_experts": 64,
        "n_shared_experts": 1,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1536,
        "routed_scaling_factor": 1.8,
        "norm_topk_prob": True,
        "rope_interleave": True,
    },
    words=DEEPSEEK_V3.words,
)
