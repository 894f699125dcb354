"""Phi-3, Phi-4, their mini models: transformers' configuration_phi3. A Llama with q, k and v in one matrix and gate and
up in another, a share of each head rotated, and frequencies by the longest context."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import ModelFamily, TensorNames
from weft.parallel.arch.reading.config import every_window, read_block, read_config

KINDS = {"su": "longrope", "yarn": "longrope"}
"""Older words for the scaling, which is longrope in each."""


def _renamed(fields: Fields) -> Fields:
    values = dict(fields.values)
    for key in ("rope_scaling", "rope_parameters"):
        if (inner := fields.inner(key)) is not None:
            values[key] = {
                name: KINDS.get(x, x) if name in ("type", "rope_type") else x for name, x in inner.values.items()
            }
    return Fields(values, fields.where)


def _config(fields: Fields) -> ModelConfig:
    fields = _renamed(fields)
    block = replace(read_block(fields, partial=True), windows=every_window(fields))
    return read_config(fields, "phi3", block)


FAMILY = ModelFamily(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    config=_config,
    defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096},
    names=TensorNames(qkv_in_one="qkv_proj", gate_up_in_one="gate_up_proj"),
)
