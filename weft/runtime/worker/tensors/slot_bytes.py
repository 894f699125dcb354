"""The weights of expert slots as bytes: parts to send, a place beside the slots to receive them, and checksums.

Whatever form the weights have: a slot is a run of bytes in each of several tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from weft.parallel.layout.placement import Interval

WORD = 8
"""Bytes; parts are whole words of int64, so that every backend moves them and they can be added up."""
CACHED_WORDS = 1 << 14
"""So many are added up at a time: what is computed from them stays in a core's cache."""


class SlotBytes:
    """The slots of one layer: `tensors` [slots, ...] each, contiguous; slots are numbers of this rank."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._rows = [tensor.view(torch.uint8).view(len(tensor), -1) for tensor in tensors]
        self.size = sum(row.shape[1] for row in self._rows)

    @property
    def words(self) -> int:
        """Of a slot, the last filled up with zeros."""
        return -(-self.size // WORD)

    def read(self, slot: int, part: Interval) -> Tensor:
        """A copy of words [lo, hi) of a slot, int64."""
        lo, hi = part
        out = torch.zeros((hi - lo) * WORD, dtype=torch.uint8, device=self._rows[0].device)
        for mine, theirs in self._pieces(slot, lo * WORD, hi * WORD):
            out[theirs[0] : theirs[1]] = mine
        return out.view(torch.int64)

    def write(self, slot: int, words: Tensor) -> None:
        """A whole slot."""
        found = words.view(torch.uint8)
        for mine, theirs in self._pieces(slot, 0, self.size):
            mine.copy_(found[theirs[0] : theirs[1]])

    def holds(self, slot: int, words: Tensor) -> bool:
        """Whether the slot is these words, byte by byte."""
        found = words.view(torch.uint8)
        return all(_same(mine, found[a:b]) for mine, (a, b) in self._pieces(slot, 0, self.size))

    def _pieces(self, slot: int, lo: int, hi: int) -> Iterator[tuple[Tensor, Interval]]:
        """Bytes [lo, hi) of a slot, tensor by tensor, and where they stand in the whole of them."""
        start = 0
        for row in self._rows:
            first, last = max(lo, start), min(hi, start + row.shape[1])
            if first < last:
                yield row[slot, first - start : last - start], (first - lo, last - lo)
            start += row.shape[1]


def part_of(words: int, part: int, parts: int) -> Interval:
    """Words of one of `parts` parts; even, the first take the remainder; empty where there are more parts than
    words."""
    size, more = divmod(words, parts)
    lo = part * size + min(part, more)
    return lo, lo + size + (part < more)


def checksum(words: Tensor) -> Tensor:
    """int64 [1] of int64 words: each times an odd number of its place, modulo 2^64. Any single word that differs
    changes it, and so do two that are exchanged, but for differences that are multiples of a high power of 2."""
    odd = 2 * torch.arange(min(len(words), CACHED_WORDS), device=words.device) + 1
    total = words.new_zeros(1)
    for start in range(0, len(words), CACHED_WORDS):
        piece = words[start : start + CACHED_WORDS]
        total += (piece * odd[: len(piece)]).sum() + 2 * start * piece.sum()
    return total


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether bytes are equal; compared by words where both begin at one, which is many times faster."""
    if a.storage_offset() % WORD or b.storage_offset() % WORD:
        return torch.equal(a, b)
    whole = len(a) // WORD * WORD
    return torch.equal(a[:whole].view(torch.int64), b[:whole].view(torch.int64)) and torch.equal(a[whole:], b[whole:])
