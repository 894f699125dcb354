"""Qwen3-MoE: transformers' configuration_qwen3_moe. A Qwen3 with experts in some or all layers."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig, MoEConfig
from weft.parallel.arch.families.qwen3 import GGUF_PICTURES, qwen3_block
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import (
    MOST_EXPERTS,
    MOST_LAYERS,
    MOST_WIDTH,
    checked_experts,
    every_window,
    layers_of,
    read_config,
)


def _experts(fields: Fields) -> MoEConfig | None:
    """None where every layer is dense."""
    moe = MoEConfig(
        num_experts=fields.whole("num_experts", high=MOST_EXPERTS),
        top_k=fields.whole("num_experts_per_tok", 8),
        intermediate_size=fields.whole("moe_intermediate_size", high=MOST_WIDTH),
        step=fields.whole("decoder_sparse_step", 1),
        dense_layers=tuple(sorted({*fields.wholes("mlp_only_layers", high=MOST_LAYERS)})),
        normalize=fields.flag("norm_topk_prob", False),
    )
    sparse = (layer for layer in range(moe.step - 1, layers_of(fields), moe.step) if layer not in moe.dense_layers)
    return None if next(sparse, None) is None else checked_experts(fields, moe)


def _config(fields: Fields) -> ModelConfig:
    block = qwen3_block(fields)
    windows = every_window(fields, fields.flag("use_sliding_window", False))
    return read_config(fields, "qwen3_moe", replace(block, windows=windows), moe=_experts(fields))


FAMILY = ModelFamily(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    config=_config,
    defaults={
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "moe_intermediate_size": 768,
    },
    words={"num_experts": ("num_local_experts", "num_experts")},
    gguf=GgufForm(
        architecture="qwen3moe",
        also=("qwen3vlmoe",),
        keys={
            "expert_count": ("num_experts", int),
            "expert_used_count": ("num_experts_per_tok", int),
            "expert_feed_forward_length": ("moe_intermediate_size", int),
        },
        fixed={"norm_topk_prob": True},
        unused=GGUF_PICTURES,
    ),
)
