"""SmolLM3: transformers' configuration_smollm3. A Llama whose every fourth layer has no rotary embedding."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.block import Rope
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import (
    MLP_BIAS,
    attention_biases,
    layers_of,
    named_windows,
    read_block,
    read_config,
)


def _ropes(fields: Fields) -> tuple[Rope, ...]:
    """`no_rope_layers` has a 1 for each layer with a rotary embedding. Without it, each `no_rope_layer_interval`th has
    none."""
    layers, given = layers_of(fields), fields.wholes("no_rope_layers", high=1)
    every = fields.whole("no_rope_layer_interval", 4)
    if given and len(given) != layers:
        raise fields.wrong("no_rope_layers", f"{layers} of 0 and 1, one for each layer")
    rotated = given or [(layer + 1) % every != 0 for layer in range(layers)]
    return tuple("global" if each else "none" for each in rotated)


def _windows(fields: Fields, ropes: tuple[Rope, ...]) -> tuple[int, ...]:
    """Where they are used: in the layers that `layer_types` names, else in those without a rotary embedding."""
    if not fields.flag("use_sliding_window", False):
        return ()
    if fields.texts("layer_types"):
        return named_windows(fields)
    window = fields.whole("sliding_window", 0, low=0)
    return tuple(window if rope == "none" else 0 for rope in ropes) if window else ()


def _config(fields: Fields) -> ModelConfig:
    block, (bias, o_bias), ropes = read_block(fields, partial=True), attention_biases(fields), _ropes(fields)
    mlp_bias = fields.flag("mlp_bias", False) and fields.flag(MLP_BIAS, True)
    block = replace(block, qkv_bias=bias, o_bias=o_bias, mlp_bias=mlp_bias, ropes=ropes)
    return read_config(fields, "smollm3", replace(block, windows=_windows(fields, ropes)))


FAMILY = ModelFamily(
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    config=_config,
    gguf=GgufForm(architecture="smollm3", permuted=frozenset({"attn_q", "attn_k"})),
    defaults={"max_position_embeddings": 32768, "num_key_value_heads": 4, "tie_word_embeddings": True},
)
