"""Modules that are stored as one tensor, such as q, k and v: records of each one's own rows in it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import TensorNames
from weft.parallel.arch.params import param_specs


def split_modules(tensors: Mapping[str, TensorInfo], names: TensorNames, model: ModelConfig) -> dict[str, TensorInfo]:
    """`tensors` with a record for each module in place of those that hold several. Those of another number of rows
    stay, and the modules are then missing."""
    if not names.fused:
        return dict(tensors)
    rows = {spec.name: spec.shape[0] for spec in param_specs(model, 0)}
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        found |= next((parts for each in names.fused if (parts := _parts(name, info, each, names, rows))), {name: info})
    return found


def _parts(
    name: str, info: TensorInfo, module: str, names: TensorNames, rows: Mapping[str, int]
) -> dict[str, TensorInfo]:
    """Empty where the tensor is not that module's, or its rows are not theirs."""
    layer, _, kind = name.rpartition(f"{module}.")
    targets = [f"{layer}{part}.{kind}" for part in names.fused[module]] if layer else []
    sizes = [rows.get(target, 0) for target in targets]
    if not targets or sum(sizes) != info.shape[0] or info.nbytes % max(1, info.shape[0]):
        return {}
    step, found, first = info.nbytes // info.shape[0], {}, 0
    for target, size in zip(targets, sizes, strict=True):
        shape, offset = (size, *info.shape[1:]), info.offset + first * step
        source = f"{info.source}[{first}:{first + size}]"
        found[target] = replace(info, name=target, shape=shape, offset=offset, nbytes=size * step, source=source)
        first += size
    return found
