"""A GGUF file's metadata keys as a config in HF's words, and what stands against serving it.

Architectures, and the keys that only some have, are those of `weft.parallel.arch.families`; any other architecture is
refused by name, and so is a key that is not known, because it may change what the model computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from weft.base.data_files import read_toml
from weft.base.fields import shown
from weft.model.checkpoint.checkpoint import Json
from weft.model.checkpoint.gguf.parts import GgufModel
from weft.model.checkpoint.gguf.rope import float32_decimal, rope_scaling
from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.families.registry import gguf_architectures, gguf_families
from weft.parallel.arch.family import GgufForm, ModelFamily
from weft.parallel.arch.reading.config import O_BIAS


class _Keys(msgspec.Struct, frozen=True):
    per_layer: tuple[str, ...]
    harmless: frozenset[str]
    required: dict[str, str]
    kinds: dict[str, Literal["int", "float", "str"]]
    off: dict[str, object]


_KEYS = read_toml("weft.model.checkpoint.gguf", "keys.toml", _Keys)
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str}
KINDS = {key: _TYPES[kind] for key, kind in _KEYS.kinds.items()}
ENDS = ("eos", "eot", "eom")
"""Tokens that end what a model says: of the text, of its turn, of a message to a tool."""
MAYBE_ZERO = ("attention.sliding_window", "nextn_predict_layers")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def gguf_config(model: GgufModel) -> tuple[Json, list[str]]:
    """HF config of the file, and what stands against serving it."""
    arch = model.metadata.get("general.architecture")
    families = gguf_families(arch)
    if not families:
        return {}, [f"architecture {shown(arch)} is not supported; supported: {', '.join(gguf_architectures())}"]
    prefix = f"{arch}."
    found = {key.removeprefix(prefix): value for key, value in model.metadata.items() if key.startswith(prefix)}
    keys = {key: _common(value) if key in _KEYS.per_layer else value for key, value in found.items()}
    family = next((each for each in families if each.gguf and each.gguf.chosen(keys)), families[0])
    assert family.gguf is not None
    names = {tensor.source: tensor for tensor in model.tensors}
    problems = [f"metadata key {prefix}{line}" for line in (*_missing(keys, family.gguf), *_refused(keys, family.gguf))]
    if len(getattr(names.get("token_embd.weight"), "shape", ())) != 2:
        problems.append("token_embd.weight: missing, or not a matrix")
    problems += _token_id_faults(model.metadata)
    if problems:
        return {}, problems
    keys = {key: float32_decimal(value) if type(value) is float else value for key, value in keys.items()}
    config = {**_sizes(keys), **_switches(family, keys, names), **_token_ids(model.metadata)}
    config |= _familys(family.gguf, keys, names)
    return _with_rope(config, prefix, keys, names)


def _with_rope(config: Json, prefix: str, keys: Json, names: Mapping[str, TensorInfo]) -> tuple[Json, list[str]]:
    rope, faults = rope_scaling(prefix, keys, names, config)
    scaling = {**rope.get("rope_scaling", {}), **config.pop("rope_scaling", {})} if "rope_scaling" in rope else {}
    config.pop("rope_scaling", None)
    return {**config, **rope, **({"rope_scaling": scaling} if scaling else {})}, faults


def _familys(form: GgufForm, keys: Json, names: Mapping[str, TensorInfo]) -> Json:
    """Words of config.json that not all families have."""
    said = {word: keys[key] for key, (word, _) in form.keys.items() if key in keys}
    return {**form.fixed, **said, **form.words(keys, names.keys())}


def _common(value: Any) -> Any:
    """The one number in a list of equal numbers; anything else as it is."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value


def _missing(keys: Json, form: GgufForm) -> Iterator[str]:
    needed = (key for key, (word, _) in form.keys.items() if word not in form.fixed)
    yield from (f"{key}: missing" for key in (*_KEYS.required, *needed) if key not in keys)


def _refused(keys: Json, form: GgufForm) -> Iterator[str]:
    """Keys with values that cannot be, that weft does not run, or that it does not know."""
    heads, hidden = keys.get("attention.head_count"), keys.get("embedding_length")
    whole = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None
    head_dim = keys.get("attention.key_length", whole)
    off = {**{key: value for key, value in _KEYS.off.items() if key not in form.keys}, **form.only}
    for key, value in keys.items():
        kind = form.keys[key][1] if key in form.keys else KINDS.get(key)
        own = key in form.keys or key in form.unused
        if key in off and value != off[key]:
            yield f"{key}: {value!r} is not supported, only {off[key]!r}"
        elif kind is None and key not in _KEYS.harmless and key not in off and key not in form.unused:
            yield f"{key}: not known, and it may change the model"
        elif kind and isinstance(value, list):
            yield f"{key}: a size for each layer is not supported: {value}"
        elif kind and type(value) is not kind and not (kind is float and type(value) is int):
            yield f"{key}: {value!r} is no {kind.__name__}"
        elif kind is float and value > FLOAT32_MAX:
            yield f"{key}: {value!r} is beyond 32-bit floats, as llama.cpp has them; legal: up to {FLOAT32_MAX:.3g}"
        elif kind in (int, float) and not value > 0 and key not in MAYBE_ZERO and not own:
            yield f"{key}: {value!r} is not positive"
        elif key in ("attention.value_length", "rope.dimension_count") and value != head_dim and not own:
            yield f"{key}: {value}; only the head size {head_dim} is supported"


def _sizes(keys: Json) -> Json:
    heads = keys["attention.head_count"]
    return {
        **{name: keys[key] for key, name in _KEYS.required.items()},
        "num_hidden_layers": keys["block_count"] - keys.get("nextn_predict_layers", 0),
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": keys.get("attention.key_length", keys["embedding_length"] // heads),
    }


def _switches(family: ModelFamily, keys: Json, names: dict[str, TensorInfo]) -> Json:
    window = keys.get("attention.sliding_window")
    return {
        "architectures": [family.architectures[0]],
        "model_type": family.name,
        "hidden_act": "silu",
        "vocab_size": names["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        O_BIAS: "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "sliding_window": window or None,
        "use_sliding_window": bool(window),
        "max_window_layers": 0,
        "torch_dtype": _dtype(names),
    }


def _dtype(names: dict[str, TensorInfo]) -> str:
    """The dtype to compute in: that of the weights where they are plain, bfloat16 where they are quantized."""
    plain = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    matrices = {plain.get(tensor.dtype, "bfloat16") for tensor in names.values() if len(tensor.shape) > 1}
    return matrices.pop() if len(matrices) == 1 else "bfloat16"


def _token_id_faults(metadata: Json) -> list[str]:
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("bos", "padding", *ENDS))
    return [f"metadata key {key}: {metadata[key]!r} is no id" for key in keys if type(metadata.get(key, 0)) is not int]


def _token_ids(metadata: Json) -> Json:
    def get(name: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{name}_token_id")

    ends = sorted({value for name in ENDS if (value := get(name)) is not None})
    return {"bos_token_id": get("bos"), "pad_token_id": get("padding"), "eos_token_id": ends}
