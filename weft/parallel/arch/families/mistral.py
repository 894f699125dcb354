"""Mistral: transformers' configuration_mistral. The window `sliding_window`, where there is one, is
every layer's, or that of the layers that `layer_types` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import named_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    return read_config(fields, "mistral", replace(read_block(fields), windows=named_windows(fields)))


def _in_gguf(keys: Mapping[str, Any]) -> bool:
    return bool(keys.get("attention.sliding_window")) and not keys.get("expert_count")


FAMILY = ModelFamily(
    name="mistral",
    architectures=("MistralForCausalLM",),
    config=_config,
    defaults={"sliding_window": 4096, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    gguf=GgufForm(architecture="llama", chosen=_in_gguf, permuted=frozenset({"attn_q", "attn_k"})),
)
