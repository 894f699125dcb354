"""SmolLM3: transformers' configuration_smollm3. A Llama without rotary embedding in every fourth layer."""

from __future__ import annotations

from dataclasses import replace

from weft.base.fields import Fields
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.config import (
    MLP_BIAS,
    attention_biases,
    layers_of,
    named_windows,
    read_block,
    read_config,
)


def _turned(fields: Fields) -> tuple[int, ...]:
    """Whether each layer has a rotary embedding: 1 or 0."""
    layers, given = layers_of(fields), fields.wholes("no_rope_layers", high=1)
    if not given:
        step = fields.whole("no_rope_layer_interval", 4)
        return tuple(int((layer + 1) % step != 0) for layer in range(layers))
    if len(given) < layers:
        raise fields.wrong("no_rope_layers", f"{layers} numbers, one for each layer", f"it has {len(given)}")
    return given[:layers]


def _windows(fields: Fields, turned: tuple[int, ...]) -> tuple[int, ...]:
    """`sliding_window`, if it is used, in the layers that `layer_types` names, else in those without rotation."""
    if not fields.flag("use_sliding_window", False) or "sliding_window" not in fields:
        return ()
    if "layer_types" in fields:
        return named_windows(fields)
    window = fields.whole("sliding_window")
    return tuple(0 if each else window for each in turned)


def _config(fields: Fields) -> ModelConfig:
    block, (bias, o_bias), turned = read_block(fields), attention_biases(fields), _turned(fields)
    block = replace(
        block,
        qkv_bias=bias,
        o_bias=o_bias,
        mlp_bias=fields.flag("mlp_bias", False) and fields.flag(MLP_BIAS, True),
        ropes=tuple("global" if each else "none" for each in turned),
        windows=_windows(fields, turned),
    )
    return read_config(fields, "smollm3", block, theta=2000000.0)


FAMILY = ModelFamily(
    name="smollm3",
    architectures=("SmolLM3ForCausalLM",),
    config=_config,
    defaults={"max_position_embeddings": 32768, "num_key_value_heads": 4, "tie_word_embeddings": True},
)
