"""Targets of a rank's parameters while they are filled, part by part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weft.compute.ops.native.packed import PackedWeight
from weft.compute.ops.weights import FileBlocks, Weight
from weft.model.checkpoint.formats import LOADABLE
from weft.model.layers.base import use_of
from weft.parallel.arch.shards import Shards
from weft.parallel.arch.spec import ParamSpec

SPARE_BYTES = 256 << 20
"""Most bytes of a buffer that is kept to be filled again."""


class Filling:
    """Unfinished targets: each is in memory from its first part to its last, so that a target that is prepared at once
    is never in memory together with all others."""

    def __init__(
        self,
        specs: Sequence[ParamSpec],
        shards: Shards,
        rank: int,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device | str,
        kept: Mapping[str, str],
    ) -> None:
        """`kept`: format of the targets that are filled with a file's blocks."""
        self._shapes, self._dtype, self._device, self._kept = shapes, dtype, device, kept
        self._open: dict[str, Tensor] = {}
        self._spare, self._borrowed = _nothing(), dict[str, Tensor]()
        self._rows: dict[ParamSpec, tuple[int, int]] = {}
        self._missing: Counter[str] = Counter()
        filled: Counter[str] = Counter()
        for spec in sorted(specs, key=lambda spec: spec.part):
            rows = shards.local_shape(spec, rank)[0]
            self._rows[spec] = filled[spec.target], rows
            filled[spec.target] += rows
            self._missing[spec.target] += 1

    def place(self, spec: ParamSpec) -> Tensor:
        """The rows of its target that `spec` fills: one part's after the other's."""
        if spec.target not in self._open:
            self._open[spec.target] = self._made(spec.target)
        return self._open[spec.target].narrow(0, *self._rows[spec])

    def rows_of(self, spec: ParamSpec, found: Mapping[str, Tensor]) -> Tensor | None:
        """Of the rows of `found` for its target those that `spec` fills."""
        return found[spec.target].narrow(0, *self._rows[spec]) if spec.target in found else None

    def _made(self, target: str) -> Tensor:
        shape = self._shapes[target]
        if target in self._kept:
            width = LOADABLE[self._kept[target]].row_bytes(shape[1])
            return torch.empty((shape[0], width), dtype=torch.uint8, device=self._device)
        needed = math.prod(shape) * self._dtype.itemsize
        if use_of(target) is None or needed > len(self._spare):  # what is no matrix to multiply by stays as it is
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        spare, self._spare = self._spare, _nothing()
        found = spare[:needed].view(self._dtype).view(shape)
        self._borrowed[target] = spare
        return found

    def take_back(self, target: str, whole: Tensor, made: Weight) -> None:
        """`made` of `whole` is kept: where it has numbers of its own, the next target is filled into that memory, whose
        pages the system has handed out already."""
        memory = self._borrowed.pop(target, None)
        if not isinstance(made, PackedWeight) or whole.device.type != "cpu":
            return
        memory = whole.view(-1).view(torch.uint8) if memory is None else memory
        if len(self._spare) < len(memory) <= SPARE_BYTES:
            self._spare = memory

    def finished(self, spec: ParamSpec) -> Tensor | FileBlocks | None:
        """The target, once all its parts are there."""
        self._missing[spec.target] -= 1
        if self._missing[spec.target]:
            return None
        whole = self._open.pop(spec.target)
        name = self._kept.get(spec.target)
        return FileBlocks(whole, name, self._shapes[spec.target][1]) if name else whole


def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)
