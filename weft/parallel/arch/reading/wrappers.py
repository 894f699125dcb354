"""Configs of models that read images or audio too: the part that says what the text model is."""

from __future__ import annotations

from typing import Any

from weft.base.fields import Fields

PARTS = ("text_config", "llm_config", "language_config")
"""Where the text model's config stands, in the words of transformers, InternVL and DeepSeek-VL2."""
TEXT_TYPES = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "ministral": "mistral",
}
"""model_type of text models that compute what a family does, as long as there is nothing but text."""
OUTER = ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype", "eos_token_id", "bos_token_id")
"""Fields of the whole that hold for its text part, where that does not have them."""
FIRST = ("tie_word_embeddings",)
"""Those that count more than the text part's own."""
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000},
    "mistral": {"hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000, "num_key_value_heads": 8},
    "qwen2": {"hidden_size": 4096, "intermediate_size": 22016, "vocab_size": 151936},
    "qwen3": {"hidden_size": 4096, "intermediate_size": 22016, "vocab_size": 151936},
}
"""What such a part means without a size: transformers leaves out of it what is its class's default, by model_type."""
COMMON = {"num_hidden_layers": 32, "num_attention_heads": 32}


def text_part(fields: Fields) -> Fields:
    """The fields of the text model: the object under one of PARTS; `fields` where there is none."""
    for part in PARTS:
        inner = fields.inner(part)
        if inner is not None:
            outer = {key: fields.values[key] for key in OUTER if key in fields}
            first = {key: fields.values[key] for key in FIRST if key in fields}
            kind = str(inner.values.get("model_type"))
            own = SIZES.get(TEXT_TYPES.get(kind, kind))
            sizes = {**own, **COMMON} if own is not None else {}
            return Fields({**sizes, **outer, **inner.values, **first}, inner.where)
    return fields
