"""The placement that a server starts with: read from a file and checked against the model and the layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.base.errors import ConfigError
from weft.parallel.experts.files.sources import read_placement
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.shape import SlotShape


def placement_of_file(path: Path, shape: SlotShape, num_layers: int, layers: Sequence[int]) -> ExpertPlacement:
    """The rows of `layers`, the layers with experts of a model of `num_layers`. ConfigError: another model's file, or
    another layout's, with what is wanted."""
    source = read_placement(path, shape.ranks)
    placement = source.placement
    assert placement is not None
    for name, found, wanted in (
        ("experts", placement.experts, shape.experts),
        ("slots", placement.slots, shape.slots),
    ):
        if found != wanted:
            raise _other(path, name, found, wanted)
    partial = bool(source.missing) or placement.layers < num_layers and source.by_layer
    if not partial and placement.layers != num_layers:
        raise _other(path, "layers", placement.layers, num_layers)
    absent = [layer for layer in layers if layer >= placement.layers or layer in source.missing]
    if absent:
        raise ConfigError(
            f"expert_placement {path}: has no layer {absent[0]}; the model has experts in layers {_shown(layers)}",
            field="expert_placement",
            value=str(path),
            legal=tuple(layers),
        )
    if placement.layers > num_layers:
        raise _other(path, "layers", placement.layers, num_layers)
    return ExpertPlacement(placement.phy2log[list(layers)], placement.experts, placement.ranks)


def _shown(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


def _other(path: Path, name: str, found: int, wanted: int) -> ConfigError:
    whose = "the layout" if name == "slots" else "the model"
    return ConfigError(
        f"expert_placement {path}: {found} {name}, but {whose} has {wanted}; wanted a placement of {wanted} {name}",
        field="expert_placement",
        value=found,
        legal=(wanted,),
    )
