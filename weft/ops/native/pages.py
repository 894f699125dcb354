"""Where a rank's weights, buffers, cache and what its program points to lie: in memory of its process alone, or where
other ranks find all of it at the same addresses."""

from __future__ import annotations

import ctypes
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from weft.errors import ConfigError
from weft.ops.native.large_pages import large_pages

Record = TypeVar("Record", ctypes.Structure, ctypes.Array[ctypes.c_void_p])


class Pages(Protocol):
    """Memory of one of both kinds."""

    @property
    def common(self) -> bool:
        """Whether other ranks find it at the same addresses."""

    @property
    def piece(self) -> int:
        """What little is best taken in, bytes; 0: as it is."""

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], zeros, which are soon written; large pages where there are any."""

    def reserve(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], zeros, on a large page, no page of which is there before it is written or asked for.
        ConfigError: the system refuses."""

    def mark(self) -> int:
        """For `give_back`."""

    def give_back(self, mark: int) -> None:
        """All that was taken since, which is zeros again, is free, where memory can be given back."""

    def record(self, record: Record) -> Record:
        """The same record, in this memory."""

    def vector(self, tensor: Tensor) -> Tensor:
        """The same numbers, in this memory: for contiguous tensors that only change where this gives them."""


class OwnPages:
    """Of this process alone, where everything already lies."""

    common, piece = False, 32 << 20

    def take(self, nbytes: int) -> Tensor:
        return large_pages(nbytes)

    def reserve(self, nbytes: int) -> Tensor:
        return large_pages(nbytes)

    def mark(self) -> int:
        return 0

    def give_back(self, mark: int) -> None:
        """It goes with the last that holds it."""

    def record(self, record: Record) -> Record:
        return record

    def vector(self, tensor: Tensor) -> Tensor:
        return tensor


OWN_PAGES = OwnPages()
"""They hold nothing: one is as good as another."""


class PageSource(Protocol):
    """A rank's memory that other ranks find at the same addresses."""

    @property
    def taken(self) -> int:
        """How far memory is taken."""

    def holds(self, address: int) -> bool:
        """Whether it lies in this memory."""

    def take(self, nbytes: int) -> int:
        """Address of so many zeros on a cache line, whose pages are there."""

    def give_back(self, taken: int) -> None:
        """All that was taken since."""

    def reserve(self, nbytes: int) -> int:
        """Address of so many zeros on a large page, whose pages come as they are written."""


class ArenaPages:
    """Of a rank's `SharedArena`. What was copied into it once is found again there."""

    common, piece = True, 0

    def __init__(self, arena: PageSource) -> None:
        self._arena = arena
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def take(self, nbytes: int) -> Tensor:
        return _bytes_at(self._arena.take(nbytes), nbytes)

    def reserve(self, nbytes: int) -> Tensor:
        try:
            return _bytes_at(self._arena.reserve(nbytes), nbytes)
        except MemoryError as error:
            raise ConfigError(f"the system refuses {nbytes / 2**20:.1f} MiB: {error}") from None

    def mark(self) -> int:
        return self._arena.taken

    def give_back(self, mark: int) -> None:
        self._arena.give_back(mark)

    def record(self, record: Record) -> Record:
        kind, nbytes = type(record), ctypes.sizeof(record)
        address = self._arena.take(nbytes)
        ctypes.memmove(address, ctypes.addressof(record), nbytes)
        return kind.from_address(address)

    def vector(self, tensor: Tensor) -> Tensor:
        if self._arena.holds(tensor.data_ptr()):
            return tensor
        known = self._copies.get(tensor.data_ptr())
        if known is None or known[0].shape != tensor.shape or known[0].dtype != tensor.dtype:
            copy = self.take(tensor.nbytes).view(tensor.dtype).view(tensor.shape).copy_(tensor)
            known = self._copies[tensor.data_ptr()] = tensor, copy
        return known[1]


def _bytes_at(address: int, nbytes: int) -> Tensor:
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), dtype=torch.uint8)
