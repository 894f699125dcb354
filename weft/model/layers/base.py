"""Params: a rank's runtime parameters by name, and what each matrix is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.ops.interface import Ops
from weft.compute.ops.weights import FileBlocks, Packed, Use, Weight
from weft.model.layers.latent_rows import arranged_latent, arranged_queries, unfolded
from weft.parallel.arch.config import MLAConfig
from weft.parallel.arch.shards import Shards

Params = Mapping[str, Weight]
"""Runtime parameters of one rank: "layers.0.attention.qkv.weight" -> its slice."""

_USES = {
    "attention.qkv.weight": Use.LINEAR,
    "o_proj.weight": Use.LINEAR,
    "dense.gate_up.weight": Use.GATED,
    "dense.down.weight": Use.LINEAR,
    "shared_experts.gate_up.weight": Use.GATED,
    "shared_experts.down.weight": Use.LINEAR,
    "router.weight": Use.KEPT,
    "attention.q_a.weight": Use.KEPT,
    "attention.q_b.weight": Use.KEPT,
    "attention.kv_a.weight": Use.KEPT,
}
_UNFOLDED = "attention.kv_b.weight"
_USES_OF_SLOTS = {"experts.gate_up.weight": Use.GATED, "experts.down.weight": Use.LINEAR}


def use_of(name: str) -> Use | None:
    """What the layers do with the parameter; None: they need it as a tensor."""
    return Use.HEAD if name == "lm_head.weight" else _USES.get(_in_layer(name))


def use_of_slots(name: str) -> Use | None:
    """The same of a parameter that holds a matrix for every expert slot, one below the other."""
    return _USES_OF_SLOTS.get(_in_layer(name))


def _in_layer(name: str) -> str:
    return name.split(".", 2)[-1] if name.startswith("layers.") else name


_ARRANGED = {"attention.q_b.weight": arranged_queries, "attention.kv_a.weight": arranged_latent}


@dataclass(frozen=True, slots=True, eq=False)
class Unfolding(Packed):
    """kv_b of latent attention in two parts, each a packed matrix for every head: `unfolded` says what they are."""

    shape: tuple[int, int]
    to_latent: Packed
    to_value: Packed

    @classmethod
    def of(cls, ops: Ops, weight: Tensor, mla: MLAConfig) -> Unfolding | None:
        """None where `ops` packs nothing."""
        heads = weight.shape[0] // (mla.nope_dim + mla.v_dim)
        to_latent, to_value = (ops.prepare_heads(part, heads) for part in unfolded(weight, mla))
        if isinstance(to_latent, Tensor) or isinstance(to_value, Tensor):
            return None
        return cls((weight.shape[0], weight.shape[1]), to_latent, to_value)

    @property
    def nbytes(self) -> int:
        return self.to_latent.nbytes + self.to_value.nbytes

    def unpacked(self) -> Tensor:
        depth = self.shape[1]
        values = self.to_value.unpacked()
        keys = self.to_latent.unpacked()
        heads = keys.shape[0] // depth
        keys, values = keys.view(heads, depth, -1).transpose(1, 2), values.view(heads, -1, depth)
        return torch.cat((keys, values), 1).reshape(self.shape)


class Prepare:
    """Gives loaded matrices the form in which `ops` multiplies by them, where a layer only multiplies by them."""

    def __init__(self, ops: Ops, shards: Shards, rank: int) -> None:
        """For `rank`, one of `shards`."""
        self._ops, self._slots, self._mla = ops, shards.slots_held(rank), shards.config.mla

    def __call__(self, name: str, weight: Tensor, peaks: Tensor | None = None) -> Weight:
        """The parameter `name`, once it is whole. `peaks` [rows]: see `needs_peaks`."""
        use, of_slots = use_of(name), use_of_slots(name)
        if of_slots is not None:
            return self._ops.prepare_slots(weight, of_slots, self._slots, peaks)
        if self._mla is not None and ".attention." in name:
            return self._latent(_in_layer(name), weight, self._mla)
        return weight if use is None else self._ops.prepare(weight, use, peaks)

    def needs_peaks(self, name: str) -> bool:
        """Whether a part of the rows of `name` is to be given with the largest magnitude of each whole row."""
        use = use_of(name) or use_of_slots(name)
        return use is not None and self._ops.needs_peaks(use)

    def _latent(self, name: str, weight: Tensor, mla: MLAConfig) -> Weight:
        """What is packed is put in order before; plain tensors stay as they are, and layers do it."""
        if name == _UNFOLDED:
            found = Unfolding.of(self._ops, weight, mla)
            return weight if found is None else found
        if _USES.get(name) is None:
            return weight
        arrange = _ARRANGED.get(name)
        made = self._ops.prepare(weight if arrange is None else arrange(weight, mla), Use.KEPT)
        return weight if isinstance(made, Tensor) else made

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
