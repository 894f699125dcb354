"""Ministral 3: transformers' configuration_ministral3. A Mistral whose queries grow with the position."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import every_window, read_block, read_config
from weft.parallel.arch.reading.rope import query_growth


def _config(fields: Fields) -> ModelConfig:
    growth = query_growth(fields, fields.whole("max_position_embeddings"))
    block = replace(read_block(fields), windows=every_window(fields), query_growth=growth)
    return read_config(fields, "ministral3", block)


FAMILY = ModelFamily(
    name="ministral3",
    architectures=("Ministral3ForCausalLM",),
    config=_config,
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
