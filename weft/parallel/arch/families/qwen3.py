"""Qwen3: transformers' configuration_qwen3. Norms of q and k; biases by `attention_bias`; windows in upper layers."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.block import BlockSpec
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import attention_biases, read_block, read_config, upper_windows

GGUF_PICTURES = frozenset({"n_deepstack_layers", "rope.dimension_sections"})
"""Keys of models that read pictures too: for text alone all sections turn alike."""


def qwen3_block(fields: Fields) -> BlockSpec:
    """The block of Qwen3 and Qwen3-MoE, without windows."""
    block, (bias, o_bias) = read_block(fields), attention_biases(fields)
    return replace(block, qkv_bias=bias, o_bias=o_bias, qk_norm="head")


def _config(fields: Fields) -> ModelConfig:
    return read_config(fields, "qwen3", replace(qwen3_block(fields), windows=upper_windows(fields)))


FAMILY = ModelFamily(
    name="qwen3",
    architectures=("Qwen3ForCausalLM",),
    config=_config,
    defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28, "max_position_embeddings": 32768},
    gguf=GgufForm(architecture="qwen3", also=("qwen3vl",), unused=GGUF_PICTURES),
)
