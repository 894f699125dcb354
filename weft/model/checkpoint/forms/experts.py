"""Routed experts that are stored as one tensor for all of a layer, as transformers 5 writes them without
`save_original_format`: records of every expert's own bytes in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from weft.model.checkpoint.tensors import TensorInfo
from weft.parallel.arch.family import TensorNames

FUSED = "mlp"
"""The module of a layer that holds router and fused experts, in every family."""
PARTS = ("gate_up_proj", "down_proj")


def split_experts(tensors: Mapping[str, TensorInfo], names: TensorNames, experts: int) -> dict[str, TensorInfo]:
    """`tensors` with a record for each of so many experts in place of those that hold a layer's: `gate_up_proj`
    [E, 2I, H], gate above up, and `down_proj` [E, H, I]. Those of other numbers stay. The router beside them gets the
    family's name."""
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        head, _, tail = name.rpartition(f".{FUSED}.experts.")
        if experts and fused_experts(name, info) == experts:
            found |= {each.name: each for each in _split(head, tail, info, names)}
        elif names.experts != FUSED and name.endswith(f".{FUSED}.{names.router}.weight"):
            own = f"{name.removesuffix(f'{FUSED}.{names.router}.weight')}{names.experts}.{names.router}.weight"
            found[own] = _at(info, own, info.shape, 0, info.source)
        else:
            found[name] = info
    return found


def fused_experts(name: str, info: TensorInfo) -> int:
    """Experts of a tensor that holds a layer's; 0: it is none."""
    head, _, tail = name.rpartition(f".{FUSED}.experts.")
    elements = prod(info.shape)
    whole = len(info.shape) == 3 and elements > 0 and info.nbytes and info.nbytes % elements == 0
    return info.shape[0] if head and tail in PARTS and whole else 0


def _split(head: str, tail: str, info: TensorInfo, names: TensorNames) -> Iterator[TensorInfo]:
    experts, rows, columns = info.shape
    parts = names.expert_gate_up if tail == "gate_up_proj" else (names.expert_down,)
    if rows % len(parts):
        return
    shape = (rows // len(parts), columns)
    step = info.nbytes // experts // len(parts)
    for expert in range(experts):
        for number, part in enumerate(parts):
            name = f"{head}.{names.experts}.experts.{expert}.{part}.weight"
            start = (expert * len(parts) + number) * step
            yield _at(info, name, shape, start, f"{info.source}[{expert}]")


def _at(info: TensorInfo, name: str, shape: tuple[int, ...], start: int, source: str) -> TensorInfo:
    """A part of `info` from byte `start` of it."""
    nbytes = info.nbytes // max(1, prod(info.shape)) * prod(shape)
    return TensorInfo(name, shape, info.dtype, info.file, info.offset + start, nbytes, source)
