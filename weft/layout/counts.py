"""Whole numbers of ranks: how many there may be, and which divide them. Knows no layout."""

from __future__ import annotations

from math import isqrt

from weft.errors import LayoutError

MOST_RANKS = 1 << 20
"""Every rank of a layout is looked at by itself: more would be waited for, and are surely a slip of the hand."""


def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [size for size in range(1, isqrt(number) + 1) if number % size == 0]
    return (*small, *(number // size for size in reversed(small) if size * size != number))


def check_ranks(field: str, label: str, number: int) -> None:
    """LayoutError where `number` ranks, as `label` says it, are more than a layout may have."""
    if number > MOST_RANKS:
        raise LayoutError(
            f"{label}: more than the {MOST_RANKS} ranks that a layout may have", field=field, value=number
        )
