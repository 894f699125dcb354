"""Params: a rank's runtime parameters by name, and what each matrix is for. Knows no checkpoint and no layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from weft.ops.base import Ops
from weft.ops.weights import FileBlocks, Packed, Use, Weight

Params = Mapping[str, Weight]
"""Runtime parameters of one rank: "layers.0.attention.qkv.weight" -> its slice."""

_USES = {
    "attention.qkv.weight": Use.LINEAR,
    "o_proj.weight": Use.LINEAR,
    "dense.gate_up.weight": Use.GATED,
    "dense.down.weight": Use.LINEAR,
    "shared_experts.gate_up.weight": Use.GATED,
    "shared_experts.down.weight": Use.LINEAR,
    "router.weight": Use.ROUTER,
}
_USES_OF_SLOTS = {"experts.gate_up.weight": Use.GATED, "experts.down.weight": Use.LINEAR}


def use_of(name: str) -> Use | None:
    """What the layers do with the parameter; None: they need it as a tensor."""
    return Use.HEAD if name == "lm_head.weight" else _USES.get(_in_layer(name))


def use_of_slots(name: str) -> Use | None:
    """The same of a parameter that holds a matrix for every expert slot, one below the other."""
    return _USES_OF_SLOTS.get(_in_layer(name))


def _in_layer(name: str) -> str:
    return name.split(".", 2)[-1] if name.startswith("layers.") else name


class Prepare:
    """Gives loaded matrices the form in which `ops` multiplies by them, where a layer only multiplies by them."""

    def __init__(self, ops: Ops, slots: int = 0) -> None:
        """`slots`: expert slots of a layer on this rank."""
        self._ops, self._slots = ops, slots

    def __call__(self, name: str, weight: Tensor) -> Weight:
        """The parameter `name`, once it is whole."""
        use, of_slots = use_of(name), use_of_slots(name)
        if of_slots is not None:
            return self._ops.prepare_slots(weight, of_slots, self._slots)
        return weight if use is None else self._ops.prepare(weight, use)

    def takes_blocks(self, name: str, format: str) -> bool:
        """Whether `name` may be handed over in a file's blocks."""
        use = use_of(name)
        return use is not None and self._ops.takes_blocks(format, use)

    def blocks(self, name: str, weight: FileBlocks) -> Weight:
        """The parameter `name` in blocks, where `takes_blocks` said yes."""
        use = use_of(name)
        assert use is not None
        return self._ops.prepare_blocks(weight, use)


def tensor(params: Params, name: str) -> Tensor:
    """A parameter that is never packed."""
    found = params[name]
    if isinstance(found, Packed):
        raise TypeError(f"{name} was packed, but its layer reads it as a tensor")
    return found


def tensor_or_none(params: Params, name: str) -> Tensor | None:
    """The same, where the model may lack it."""
    return tensor(params, name) if name in params else None
