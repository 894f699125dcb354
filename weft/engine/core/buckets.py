"""A histogram with fixed bounds. Only one thread may write."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Buckets:
    """`bounds` must ascend; a value is counted at the first bound that is not below it, else at infinity."""

    __slots__ = ("bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value` `times` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times

    def cumulative(self) -> tuple[int, ...]:
        """For each bound the number of values not above it; last, the number of all values."""
        return tuple(accumulate(self._counts))

    @property
    def sum(self) -> float:
        """Sum of all values."""
        return self._sum
