"""Mistral: transformers' configuration_mistral. Every layer has the window `sliding_window`, where there is one."""

from __future__ import annotations

from dataclasses import replace

from weft.arch.config import ModelConfig
from weft.arch.family import GgufForm, ModelFamily, Raw
from weft.arch.reading import read_block, read_config, size, windows


def _config(raw: Raw) -> ModelConfig:
    block = read_block(raw)
    all_layers = [True] * size(raw, "num_hidden_layers")
    return read_config(raw, "mistral", replace(block, windows=windows(raw, all_layers)))


FAMILY = ModelFamily(
    name="mistral",
    architectures=("MistralForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="llama", permuted=frozenset({"attn_q", "attn_k"}), windowed=True),
)
