"""Memory for packed weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from weft.compute.ops.native.large_pages import large_pages

_LINE = 64
_PIECE = 32 << 20


class Memory(Protocol):
    """Where a packed weight's parts go."""

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], on a cache line, zeros."""


class Arena:
    """Memory for many packed weights: large pieces on 2 MiB pages, handed out in cache lines, so that small weights get
    large pages too. A piece lives as long as any weight in it."""

    def __init__(self, piece: int = _PIECE) -> None:
        self._piece = piece
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], on a cache line, zeros."""
        size = -(-nbytes // _LINE) * _LINE
        if size > len(self._free):
            if 2 * size > self._piece:
                return large_pages(size)[:nbytes]
            self._free = large_pages(self._piece)
        taken, self._free = self._free[:nbytes], self._free[size:]
        return taken

    @contextmanager
    def attempt(self) -> Iterator[list[Tensor]]:
        """Parts that the caller leaves in the list are free again after this; nothing else may be taken in between."""
        free, unused = self._free, list[Tensor]()
        yield unused
        for part in unused:
            part.zero_()
        if unused:
            self._free = free


class Given:
    """Memory that was taken before, handed out piece by piece."""

    def __init__(self, pieces: list[Tensor]) -> None:
        self._pieces = pieces

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes]: the next piece."""
        return self._pieces.pop(0) if nbytes else torch.empty(0, dtype=torch.uint8)
