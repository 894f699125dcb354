"""Whether layers and experts of a config are those that the files hold: before a list of them is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.base.plural import counted
from weft.model.checkpoint.forms.experts import fused_experts
from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import ModelFamily, TensorNames

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Fields with the number of routed experts."""


def layer_number(names: TensorNames, name: str) -> int | None:
    """Number of the layer that a tensor belongs to; None: to no layer."""
    before, after = names.layer.split("{}")
    rest = name.removeprefix(before)
    digits = rest.split(".")[0].removesuffix(after)
    return int(digits) if rest != name and digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def count_faults(
    where: str, config: Mapping[str, Any], model: ModelConfig, tensors: Mapping[str, TensorInfo], family: ModelFamily
) -> list[str]:
    """A line each for layers, experts and rows of the vocabulary, where the files hold another number than the config
    says, or so few tensors that most of them are missing."""
    names, first = family.names, next(iter(tensors), "none")
    layers: set[int] = set()
    experts = 0
    for name, info in tensors.items():
        number = layer_number(names, name)
        if number is None:
            continue
        layers.add(number)
        _, _, place = name.partition(f".{names.experts}.experts.")
        expert = place.split(".")[0]
        if expert.isascii() and expert.isdigit() and len(expert) < 10:
            experts = max(experts, int(expert) + 1)
        elif fused := fused_experts(name, info):
            experts = max(experts, fused)
    count = max(layers, default=-1) + 1
    found = []
    if not layers:
        found.append(f"{where}: no tensor of a layer of {model.family} is there; the first tensor is {first}")
    elif count != model.num_layers:
        found.append(f"{where}: num_hidden_layers {model.num_layers}: the files hold {count} layers; legal: {count}")
    elif len(layers) < count:
        missing = next(layer for layer in range(count) if layer not in layers)
        have = f"the files hold tensors of {counted(len(layers), 'layer')}, none of layer {missing}"
        found.append(f"{where}: num_hidden_layers {count}: {have}")
    matrix = tensors.get(f"{names.embedding}.weight") or tensors.get(f"{names.lm_head}.weight")
    rows = matrix.shape[0] if matrix is not None and len(matrix.shape) == 2 else model.vocab_size
    if rows != model.vocab_size:
        found.append(f"{where}: vocab_size {model.vocab_size}: the embedding has {rows} rows; legal: {rows}")
    word = next((family.word(key, config) or key for key in EXPERTS if key in config), EXPERTS[0])
    if experts and not model.num_experts:
        found.append(f"{where}: no layer has experts by it; the files hold {counted(experts, 'expert')}")
    elif experts != model.num_experts and layers:
        found.append(f"{where}: {word} {model.num_experts}: the files hold {experts} experts; legal: {experts}")
    sparse = sum(model.has_experts(layer) for layer in range(model.num_layers)) if layers else 0
    if not found and sparse * model.num_experts > len(tensors):
        have = f"{counted(sparse, 'layer')} of so many experts; the files hold {counted(len(tensors), 'tensor')}"
        found.append(f"{where}: {word} {model.num_experts}: {have}")
    return found
