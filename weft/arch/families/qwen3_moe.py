"""Qwen3-MoE: transformers' configuration_qwen3_moe. A Qwen3 with experts in some or all layers."""

from __future__ import annotations

from weft.arch.config import ModelConfig, MoEConfig
from weft.arch.families.qwen3 import qwen3_block
from weft.arch.family import ModelFamily, Raw
from weft.arch.reading import checked_experts, read_config, size


def _experts(raw: Raw) -> MoEConfig:
    return checked_experts(
        MoEConfig(
            num_experts=size(raw, "num_experts", raw.get("num_local_experts")),
            top_k=size(raw, "num_experts_per_tok", 8),
            intermediate_size=size(raw, "moe_intermediate_size"),
            step=size(raw, "decoder_sparse_step", 1),
            dense_layers=tuple(raw.get("mlp_only_layers") or ()),
            normalize=bool(raw.get("norm_topk_prob", False)),
        )
    )


def _config(raw: Raw) -> ModelConfig:
    return read_config(raw, "qwen3_moe", qwen3_block(raw), moe=_experts(raw))


FAMILY = ModelFamily(name="qwen3_moe", architectures=("Qwen3MoeForCausalLM",), config=_config)
