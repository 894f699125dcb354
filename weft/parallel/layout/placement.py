"""Placement: the state of an activation at a module boundary."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Interval = tuple[int, int]
"""Half-open [lo, hi)."""


class PlacementKind(StrEnum):
    """How a block of ranks holds the rows that its ranks own."""

    FULL = "full"
    SHARD = "shard"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Placement:
    """Blocks of `size` consecutive ranks; each block holds the rows that its ranks own.

    FULL: every rank of the block holds all of them, whole.
    SHARD: position i of the block holds columns `cuts[i]` of all of them.
    PARTIAL: every rank holds an addend of all of them; the sum over the block is the value.
    FULL(1) is the scattered state: rank r holds just the rows it owns. Build with `full`, `shard`, `partial`,
    which give FULL(1) for size 1, so that equal states are equal records.
    """

    kind: PlacementKind
    size: int
    cuts: tuple[Interval, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind.upper()}({self.size})"


def full(size: int) -> Placement:
    """Whole on each rank of a block of `size`."""
    return Placement(PlacementKind.FULL, size)


def shard(cuts: tuple[Interval, ...]) -> Placement:
    """Columns `cuts[i]` on position i of a block of len(cuts) ranks."""
    return full(1) if len(cuts) == 1 else Placement(PlacementKind.SHARD, len(cuts), cuts)


def partial(size: int) -> Placement:
    """An addend on each rank of a block of `size`."""
    return full(1) if size == 1 else Placement(PlacementKind.PARTIAL, size)
