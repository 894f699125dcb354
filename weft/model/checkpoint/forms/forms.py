"""as_named: a directory's config and tensors in the one form that the loader knows, with a line for every change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from weft.base.plural import counted
from weft.model.checkpoint.forms.counts import count_faults, layer_number
from weft.model.checkpoint.forms.experts import split_experts
from weft.model.checkpoint.forms.fused import split_modules
from weft.model.checkpoint.forms.prefixes import TextNames
from weft.model.checkpoint.forms.tied import same_content
from weft.model.checkpoint.tensors import TensorInfo, raise_all
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families.registry import FAMILIES
from weft.parallel.arch.family import TensorNames
from weft.parallel.arch.reading.config import MLP_BIAS, O_BIAS

RECOMPUTED = re.compile(r".*\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|self_attn\.masked_bias)")
"""Tensors that old checkpoints carry and every engine computes from the config instead."""
FURTHER = ("mtp.", "model.mtp.", "mtp_layers.", "model.mtp_layers.")
"""How names of layers begin that predict further tokens and do not stand among the decoder's."""
SCALES = re.compile(r".*(weight_scale(_inv)?|input_scale|_scales?|\.scales|qweight|qzeros|g_idx|weight_packed|absmax)")
"""Names of what stands beside, or in place of, the weights of quantized checkpoints."""
Json = Mapping[str, Any]


@dataclass(slots=True)
class NamedTensors:
    """`config`: the text model's, with what the files say of it. `ignored`: tensors that carry nothing that is needed,
    by their names in the files. `notes`: lines for a person."""

    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    ignored: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def as_named(
    path: Path, config: Json, model: ModelConfig, stored: Mapping[str, TensorInfo], *, wrapped: bool
) -> NamedTensors:
    """`stored`: every tensor of the files in `path`. `wrapped`: the model reads more than text. CheckpointError: layers
    or experts that are not there, or beyond the config's."""
    family = FAMILIES[model.family]
    names = family.names
    text = TextNames.of(names, stored)
    found = NamedTensors(dict(config), {})
    left_out: list[TensorInfo] = []
    outside: Counter[str] = Counter()
    for stored_name, info in stored.items():
        name = text.name_of(stored_name)
        if RECOMPUTED.fullmatch(stored_name):
            found.ignored = (*found.ignored, info.source)
        elif stored_name.startswith(FURTHER) or _further(names, model, config, name):
            left_out.append(info)
        elif name is not None:
            found.tensors[name] = _renamed(info, name)
        elif wrapped:
            outside[stored_name.removeprefix("model.").split(".")[0]] += 1
            found.ignored = (*found.ignored, info.source)
        else:
            found.tensors[stored_name] = info
    _say_left_out(found, left_out, outside)
    found.tensors = split_experts(found.tensors, names, model.num_experts)
    found.tensors = split_modules(found.tensors, names, model)
    place = f"{path / 'config.json'}"
    raise_all(str(path), count_faults(place, config, model, found.tensors, family))
    if not model.quantization:
        raise_all(str(path), _scales(path, found.tensors))
    _tie(found, names)
    _biases(found, model, names)
    if model.block.rope_interleaved:
        _paired(found, model, names)
    return found


def _further(names: TensorNames, model: ModelConfig, config: Json, name: str | None) -> bool:
    """Whether a tensor is of a layer after the last, which predicts a further token (DeepSeek-V3's report, 2.2)."""
    number = None if name is None else layer_number(names, name)
    further = config.get("num_nextn_predict_layers")
    most = model.num_layers + (further if isinstance(further, int) else 0)
    return number is not None and model.num_layers <= number < most


def _renamed(info: TensorInfo, name: str) -> TensorInfo:
    if info.name == name:
        return info
    return replace(info, name=name)


def _paired(found: NamedTensors, model: ModelConfig, names: TensorNames) -> None:
    """Marks rows of q and k whose rotated pairs stand side by side, their biases, and the weights of their norms."""
    q, k, _ = names.qkv
    heads = {q: model.num_heads, k: model.num_kv_heads, **dict.fromkeys(names.qk_norms, 1)}
    for name, info in found.tensors.items():
        module, part = name.rpartition(f".{names.attention}.")[2].rsplit(".", 1)
        if module in heads and part in ("weight", "bias"):
            found.tensors[name] = replace(info, heads=heads[module], rotated=model.rope_dim)


def _say_left_out(found: NamedTensors, further: list[TensorInfo], outside: Counter[str]) -> None:
    if further:
        found.ignored += tuple(info.source for info in further)
        what = counted(len(further), "tensor")
        found.notes.append(f"layers that predict further tokens are left out: {what}, {further[0].source} the first")
    if outside:
        parts = ", ".join(f"{part} ({count})" for part, count in outside.most_common(6))
        found.notes.append(f"tensors outside the text model are left out: {parts}")


def _scales(path: Path, tensors: Mapping[str, TensorInfo]) -> list[str]:
    scales = [name for name, info in tensors.items() if SCALES.fullmatch(name) or info.dtype.startswith("F8_")]
    if not scales:
        return []
    return [
        f"{path}: {counted(len(scales), 'tensor')} such as {scales[0]}: weights in fp8, or in blocks with scales,"
        " cannot be loaded; take the model in bf16, or a GGUF"
    ]


def _tie(found: NamedTensors, names: TensorNames) -> None:
    """As transformers ties: a config that says so is believed where one of the two matrices is there, or both are the
    same; two different ones are both kept."""
    embedding, head = f"{names.embedding}.weight", f"{names.lm_head}.weight"
    if not found.config.get("tie_word_embeddings", False) or head not in found.tensors:
        return
    own = found.tensors[head]
    if embedding not in found.tensors:
        found.tensors[embedding] = _renamed(found.tensors.pop(head), embedding)
        found.notes.append(f"{own.file}: {own.source} is read as the embedding too: the config ties them")
    elif same_content(found.tensors[embedding], own):
        del found.tensors[head]
        found.ignored += (own.source,)
    else:
        found.config["tie_word_embeddings"] = False
        found.notes.append(
            f"{own.file}: {own.source} differs from the embedding, so both are kept; the config says"
            " tie_word_embeddings true"
        )


def _biases(found: NamedTensors, model: ModelConfig, names: TensorNames) -> None:
    """Biases that the config speaks of and no layer has are zero, as transformers makes them."""
    checks = (
        (model.block.o_bias, O_BIAS, f".{names.attention}.{names.o_proj}.bias", names.o_proj),
        (model.block.mlp_bias, MLP_BIAS, f".{names.dense}.", f"the {names.dense}"),
    )
    for expected, flag, part, what in checks:
        there = any(part in name and name.endswith(".bias") for name in found.tensors)
        if expected and not there:
            found.config[flag] = False
            found.notes.append(f"no layer has a bias of {what}, of which the config speaks: none is added")
