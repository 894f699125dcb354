"""Qwen3-MoE: transformers' configuration_qwen3_moe. A Qwen3 with experts in some or all layers."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig, MoEConfig
from weft.arch.families.qwen3 import qwen3_block
from weft.arch.family import ModelFamily
from weft.arch.reading.config import MOST_EXPERTS, MOST_LAYERS, MOST_WIDTH, checked_experts, every_window, read_config
from weft.fields import Fields


def _experts(fields: Fields) -> MoEConfig:
    experts = "num_experts" if "num_experts" in fields else "num_local_experts"
    moe = MoEConfig(
        num_experts=fields.whole(experts, high=MOST_EXPERTS),
        top_k=fields.whole("num_experts_per_tok", 8),
        intermediate_size=fields.whole("moe_intermediate_size", high=MOST_WIDTH),
        step=fields.whole("decoder_sparse_step", 1),
        dense_layers=fields.wholes("mlp_only_layers", high=MOST_LAYERS),
        normalize=fields.flag("norm_topk_prob", False),
    )
    return checked_experts(fields, moe)


def _config(fields: Fields) -> ModelConfig:
    block = qwen3_block(fields)
    windows = every_window(fields, fields.flag("use_sliding_window", False))
    return read_config(fields, "qwen3_moe", replace(block, windows=windows), moe=_experts(fields))


FAMILY = ModelFamily(
    name="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    config=_config,
    defaults={"sliding_window": 4096, "max_position_embeddings": 32768},
)
