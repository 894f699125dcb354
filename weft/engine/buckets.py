"""Buckets: how often values fell between bounds. One thread writes; knows no metric's name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Buckets:
    """`bounds` ascend; a value belongs to the first bound that is not below it, or to none of them."""

    __slots__ = ("bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """`value`, so many times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times

    def cumulative(self) -> tuple[int, ...]:
        """For each bound how many values are not above it; last, how many there are."""
        return tuple(accumulate(self._counts))

    @property
    def sum(self) -> float:
        """Of all values."""
        return self._sum
