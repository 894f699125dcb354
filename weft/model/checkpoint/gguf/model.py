"""What a GGUF file's metadata keys and tensor names mean: a config in HF's words and tensors under HF's names.

Architectures and names of tensors are those of `weft.parallel.arch.families`; any other architecture is refused by
name, and so is a key of it that is not known here, because it may change what the model computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from weft.base.data_files import read_toml
from weft.base.fields import Fields
from weft.base.weight_formats import kept_blocks
from weft.model.checkpoint.checkpoint import Checkpoint, Json, TokenizerSource
from weft.model.checkpoint.forms.counts import count_faults
from weft.model.checkpoint.gguf.parts import GgufModel, read_gguf
from weft.model.checkpoint.gguf.rope import ROPE_FREQS, float32_decimal, rope_scaling
from weft.model.checkpoint.tensors import TensorInfo, raise_all
from weft.parallel.arch.families.registry import FAMILIES, gguf_architectures, gguf_families, parse_config
from weft.parallel.arch.family import ModelFamily
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
COLUMNS_CUT = ".ffn_down."
"""Its columns are the intermediate ones; o_proj follows attention's heads, everything else is cut by rows."""
HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
"""Sizes of the modules whose rows a file may have in another order."""
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


FLOAT32_MAX = float(np.finfo(np.float32).max)


def open_gguf(path: Path) -> Checkpoint:
    """Checkpoint of the .gguf file `path`, or of all parts where it is one; CheckpointError with all that weft cannot
    serve in it."""
    header = read_gguf(path)
    config, problems = _config(header)
    raise_all(str(path), [f"{path}: {problem}" for problem in problems])
    family = FAMILIES[config["model_type"]]
    model = parse_config(config, str(path))
    renamed = (_renamed(tensor, family, config) for tensor in header.tensors if tensor.source != ROPE_FREQS)
    tensors = {tensor.name: tensor for tensor in renamed}
    problems = _vocabulary_faults(header, config)
    if any(BLOCK.fullmatch(tensor.source) for tensor in header.tensors):
        problems += count_faults(str(path), config, model, tensors, family)
    raise_all(str(path), problems)
    return Checkpoint(
        path=str(path),
        kind="gguf",
        config={**config, "weft_column_block": _column_block(header.tensors)},
        tensors=tensors,
        tokenizer=_tokenizer(path, header.metadata),
        ignored=tuple(tensor.source for tensor in header.tensors if tensor.source == ROPE_FREQS),
        states=header.states,
    )


def _vocabulary_faults(header: GgufModel, config: Json) -> list[str]:
    """Where sizes of the vocabulary in the metadata are not the embedding's rows."""
    rows, arch = config["vocab_size"], header.metadata["general.architecture"]
    said, tokens = header.metadata.get(f"{arch}.vocab_size", rows), header.metadata.get("tokenizer.ggml.tokens", ())
    found = []
    if said != rows:
        found.append(f"metadata key {arch}.vocab_size {said}: token_embd.weight has {rows} rows; legal: {rows}")
    if isinstance(tokens, list) and len(tokens) > rows:
        found.append(f"metadata key tokenizer.ggml.tokens: {len(tokens)} tokens; token_embd.weight has {rows} rows")
    return found


def _column_block(tensors: Iterable[TensorInfo]) -> int:
    """Columns that every matrix whose columns a layout may divide keeps together: its format's block, where matrices
    can stay in it."""
    kept = kept_blocks()
    return math.lcm(
        *(kept[tensor.dtype].numbers for tensor in tensors if COLUMNS_CUT in tensor.source and tensor.dtype in kept)
    )


def _renamed(tensor: TensorInfo, family: ModelFamily, config: Json) -> TensorInfo:
    name, heads = family.names.of_gguf.get(tensor.source, tensor.source), 0
    block, places = BLOCK.fullmatch(tensor.source), family.names.of_gguf_layer
    if block and block[2] in places:
        name = f"{family.names.layer.format(block[1])}.{places[block[2]]}.{block[3]}"
        permuted = family.gguf is not None and block[2] in family.gguf.permuted
        heads = config[HEADS[block[2]]] if permuted else 0
    return TensorInfo(name, tensor.shape, tensor.dtype, tensor.file, tensor.offset, tensor.nbytes, tensor.source, heads)


def _tokenizer(path: Path, metadata: Json) -> TokenizerSource:
    prefix, fields = "tokenizer.chat_template", Fields(metadata, f"{path}: metadata key")
    templates = {
        key.removeprefix(prefix).lstrip(".") or "default": fields.text(key)
        for key, value in metadata.items()
        if key == prefix or (key.startswith(f"{prefix}.") and isinstance(value, str))
    }
    return TokenizerSource(
        gguf={key: value for key, value in metadata.items() if key.startswith("tokenizer.ggml.")},
        chat_templates=templates,
    )


def _config(header: GgufModel) -> tuple[Json, list[str]]:
    """HF config of the file, and what stands against serving it."""
    arch = header.metadata.get("general.architecture")
    families = gguf_families(arch)
    if not families:
        return {}, [f"architecture {arch!r} is not supported; supported: {', '.join(gguf_architectures())}"]
    prefix = f"{arch}."
    found = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    keys = {key: _common(value) if key in _KEYS.per_layer else value for key, value in found.items()}
    names = {tensor.source: tensor for tensor in header.tensors}
    problems = [f"metadata key {prefix}{line}" for line in (*_missing(keys), *_refused(keys))]
    if len(getattr(names.get("token_embd.weight"), "shape", ())) != 2:
        problems.append("token_embd.weight: missing, or not a matrix")
    problems += _token_id_faults(header.metadata)
    if problems:
        return {}, problems
    config = {**_sizes(keys), **_switches(families, keys, names), **_token_ids(header.metadata)}
    rope, faults = rope_scaling(prefix, keys, names.get(ROPE_FREQS), config)
    return {**config, **rope}, faults


def _common(value: Any) -> Any:
    """The one number in a list of equal numbers; anything else as it is."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value


def _missing(keys: Json) -> Iterator[str]:
    for key in _KEYS.required:
        if key not in keys:
            yield f"{key}: missing"


def _refused(keys: Json) -> Iterator[str]:
    """Keys with values that cannot be, that weft does not run, or that it does not know."""
    heads, hidden = keys.get("attention.head_count"), keys.get("embedding_length")
    whole = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None
    head_dim = keys.get("attention.key_length", whole)
    for key, value in keys.items():
        kind = KINDS.get(key)
        if key in _KEYS.off and value != _KEYS.off[key]:
            yield f"{key}: {value!r} is not supported, only {_KEYS.off[key]!r}"
        elif kind is None and key not in _KEYS.harmless and key not in _KEYS.off:
            yield f"{key}: not known, and it may change the model"
        elif kind and isinstance(value, list):
            yield f"{key}: a size for each layer is not supported: {value}"
        elif kind and type(value) is not kind and not (kind is float and type(value) is int):
            yield f"{key}: {value!r} is no {kind.__name__}"
        elif kind is float and value > FLOAT32_MAX:
            yield f"{key}: {value!r} is beyond 32-bit floats, as llama.cpp has them; legal: up to {FLOAT32_MAX:.3g}"
        elif kind in (int, float) and not value > 0 and key != "attention.sliding_window":
            yield f"{key}: {value!r} is not positive"
        elif key in ("attention.value_length", "rope.dimension_count") and value != head_dim:
            yield f"{key}: {value}; only the head size {head_dim} is supported"


def _sizes(keys: Json) -> Json:
    heads = keys["attention.head_count"]
    return {
        **{name: keys[key] for key, name in _KEYS.required.items()},
        "rms_norm_eps": float32_decimal(keys["attention.layer_norm_rms_epsilon"]),
        "num_key_value_heads": keys.get("attention.head_count_kv", heads),
        "head_dim": keys.get("attention.key_length", keys["embedding_length"] // heads),
    }


def _switches(families: tuple[ModelFamily, ...], keys: Json, names: dict[str, TensorInfo]) -> Json:
    window = keys.get("attention.sliding_window")
    windowed = (each for each in families if each.gguf and each.gguf.windowed == bool(window))
    family = next(windowed, families[0])
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
