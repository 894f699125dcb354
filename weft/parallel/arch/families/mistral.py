"""Mistral: transformers' configuration_mistral. The window `sliding_window`, where there is one, is
every layer's, or that of the layers that `layer_types` names."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import named_windows, read_block, read_config


def _config(fields: Fields) -> ModelConfig:
    return read_config(fields, "mistral", replace(read_block(fields), windows=named_windows(fields)))


FAMILY = ModelFamily(
    name="mistral",
    architectures=("MistralForCausalLM",),
    config=_config,
    defaults={"sliding_window": 4096, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    gguf=GgufForm(architecture="llama", permuted=frozenset({"attn_q", "attn_k"}), windowed=True),
)
