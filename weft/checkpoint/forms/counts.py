"""Whether layers and experts of a config are those that the files hold: before a list of them is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weft.arch.config import ModelConfig
from weft.arch.family import TensorNames

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""config.json's words for the number of routed experts."""


def layer_number(names: TensorNames, name: str) -> int | None:
    """Number of the layer that a tensor belongs to; None: to no layer."""
    before, after = names.layer.split("{}")
    rest = name.removeprefix(before)
    digits = rest.split(".")[0].removesuffix(after)
    return int(digits) if rest != name and digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def count_faults(
    where: str, config: Mapping[str, Any], model: ModelConfig, tensors: Iterable[str], names: TensorNames
) -> list[str]:
    """A line for layers, and one for experts, where the files hold another number than the config says."""
    layers = experts = 0
    first = ""
    for name in tensors:
        first = first or name
        number = layer_number(names, name)
        if number is None:
            continue
        layers = max(layers, number + 1)
        _, _, place = name.partition(f".{names.experts}.experts.")
        expert = place.split(".")[0]
        if expert.isascii() and expert.isdigit() and len(expert) < 10:
            experts = max(experts, int(expert) + 1)
    found = []
    if not layers:
        found.append(f"{where}: no tensor of a layer of {model.family} is there; the first tensor is {first or 'none'}")
    elif layers != model.num_layers:
        found.append(f"{where}: num_hidden_layers {model.num_layers}: the files hold {layers} layers; legal: {layers}")
    if experts != model.num_experts and layers:
        word = next((word for word in EXPERTS if word in config), EXPERTS[0])
        found.append(f"{where}: {word} {model.num_experts}: the files hold {experts} experts; legal: {experts}")
    return found
