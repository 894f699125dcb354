"""Whole numbers of ranks: how many there may be, and which divide them."""

from __future__ import annotations

from math import isqrt

from weft.base.errors import LayoutError

MOST_RANKS = 1 << 20
"""Limit of a world: each rank is computed separately, and a larger number is surely a mistake."""


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
