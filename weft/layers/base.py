"""Params: a rank's runtime parameters by name, and what each matrix is for. Knows no checkpoint and no layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from weft.ops.base import Ops
from weft.ops.weights import Packed, Use, Weight

Params = Mapping[str, Weight]
"""Runtime parameters of one rank: "layers.0.attention.qkv.weight" -> its slice."""

_USES = {
    "attention.qkv.weight": Use.LINEAR,
    "o_proj.weight": Use.LINEAR,
    "dense.gate_up.weight": Use.GATED,
    "dense.down.weight": Use.LINEAR,
    "shared_experts.gate_up.weight": Use.GATED,
    "shared_experts.down.weight": Use.LINEAR,
}


def use_of(name: str) -> Use | None:
    """What the layers do with the parameter; None: they need it as a tensor."""
    if name == "lm_head.weight":
        return Use.HEAD
    module = name.split(".", 2)[-1] if name.startswith("layers.") else name
    return _USES.get(module)


def prepare(ops: Ops, name: str, weight: Tensor) -> Weight:
    """`weight` in the form in which `ops` multiplies by it, where a layer only multiplies by it."""
    use = use_of(name)
    return weight if use is None else ops.prepare(weight, use)


def tensor(params: Params, name: str) -> Tensor:
    """A parameter that is never packed."""
    found = params[name]
    if isinstance(found, Packed):
        raise TypeError(f"{name} was packed, but its layer reads it as a tensor")
    return found


def tensor_or_none(params: Params, name: str) -> Tensor | None:
    """The same, where the model may lack it."""
    return tensor(params, name) if name in params else None
