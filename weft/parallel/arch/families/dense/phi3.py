"""Phi-3, Phi-3.5, Phi-4: transformers' configuration_phi3. q, k, v are one tensor of the files, gate and up another."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily, TensorNames, gguf_rotary_share
from weft.parallel.arch.reading.config import every_window, read_block, read_config

OLDER = ("su", "yarn")
"""Words of older configs for longrope, as transformers reads them."""


def _renamed(fields: Fields) -> Fields:
    """The config with one word for its rotary scaling."""
    values = dict(fields.values)
    for key in ("rope_scaling", "rope_parameters"):
        inner = fields.inner(key)
        for word in ("type", "rope_type"):
            if inner is not None and inner.values.get(word) in OLDER:
                values[key] = {**values[key], word: "longrope"}
    return Fields(values, fields.where)


def _config(fields: Fields) -> ModelConfig:
    fields = _renamed(fields)
    return read_config(fields, "phi3", replace(read_block(fields, partial=True), windows=every_window(fields)))


FAMILY = ModelFamily(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    config=_config,
    gguf=GgufForm(
        architecture="phi3",
        words=lambda keys, tensors: gguf_rotary_share(keys),
        unused=frozenset({"rope.dimension_count"}),
        tensors={"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    ),
    defaults={"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    names=TensorNames(
        fused={
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        }
    ),
)
