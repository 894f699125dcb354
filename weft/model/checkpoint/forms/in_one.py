"""Matrices whose rows are those of several modules (q, k and v; gate and up): a record of each one's own rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from weft.model.checkpoint.forms.experts import part_of
from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.family import TensorNames

Parts = dict[str, tuple[tuple[str, int], ...]]
"""A module of a layer -> the modules that its rows are of, and how many each has."""


def split_rows(
    tensors: Mapping[str, TensorInfo], names: TensorNames, model: ModelConfig, problems: list[str]
) -> dict[str, TensorInfo]:
    """`tensors` with the parts in place of those that hold several; a line in `problems` for each of another size."""
    parts, found = _parts(names, model), dict[str, TensorInfo]()
    for name, info in tensors.items():
        module, kind = name.rpartition(".")[::2]
        fused = next((each for each in parts if module.endswith(f".{each}")), None)
        if fused is None:
            found[name] = info
        elif info.shape[:1] != (rows := sum(size for _, size in parts[fused]),):
            problems.append(f"{info.file}: {info.source}: wanted {rows} rows, got shape {list(info.shape)}")
        else:
            stem = module.removesuffix(fused)
            found |= {each.name: each for each in _split(info, stem, kind, parts[fused])}
    return found


def _parts(names: TensorNames, model: ModelConfig) -> Parts:
    parts = Parts()
    if names.qkv_in_one:
        rows = (model.num_heads, model.num_kv_heads, model.num_kv_heads)
        parts[f"{names.attention}.{names.qkv_in_one}"] = tuple(
            (f"{names.attention}.{name}", heads * model.head_dim) for name, heads in zip(names.qkv, rows, strict=True)
        )
    if names.gate_up_in_one:
        modules = (f"{names.dense}.{name}" for name in names.gate_up)
        parts[f"{names.dense}.{names.gate_up_in_one}"] = tuple((name, model.intermediate_size) for name in modules)
    return parts


def _split(info: TensorInfo, stem: str, kind: str, parts: tuple[tuple[str, int], ...]) -> Iterator[TensorInfo]:
    of_row = info.nbytes // info.shape[0]
    starts = accumulate((rows for _, rows in parts), initial=0)
    for (name, rows), start in zip(parts, starts, strict=False):
        source = f"{info.source}[{start}:{start + rows}]"
        yield part_of(info, f"{stem}{name}.{kind}", (rows, *info.shape[1:]), start * of_row, source)
