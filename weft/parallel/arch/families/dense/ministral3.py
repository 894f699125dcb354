"""Ministral 3: transformers' configuration_ministral3. A Mistral whose queries grow with the position."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import every_window, read_block, read_config
from weft.parallel.arch.reading.rope import query_growth


def _config(fields: Fields) -> ModelConfig:
    growth = query_growth(fields, fields.whole("max_position_embeddings"))
    block = replace(read_block(fields), windows=every_window(fields), query_growth=growth)
    return read_config(fields, "ministral3", block)


def _gguf_words(keys: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Any]:
    """The share of both factors of yarn, and how queries grow."""
    both, growth = keys.get("rope.scaling.yarn_log_multiplier"), keys.get("attention.temperature_scale")
    scaling = {"mscale": both, "mscale_all_dim": both, "llama_4_scaling_beta": growth}
    return {"rope_scaling": {word: value for word, value in scaling.items() if value is not None}}


FAMILY = ModelFamily(
    name="ministral3",
    architectures=("Ministral3ForCausalLM",),
    config=_config,
    gguf=GgufForm(
        architecture="mistral3",
        permuted=frozenset({"attn_q", "attn_k"}),
        fixed={"rope_parameters": None},
        words=_gguf_words,
        unused=frozenset({"rope.scaling.yarn_log_multiplier", "attention.temperature_scale"}),
    ),
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 262144,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
)
