"""Expected work of the fullest expert rank, where every row chooses its experts uniformly. Numbers only."""

from __future__ import annotations

from functools import cache
from math import comb, erf, floor, sqrt

EXACT = 512
"""Trials up to which a binomial is added up; beyond, it is normal to all digits that matter."""
TAIL = 8
"""Standard deviations beyond which nothing is expected."""


@cache
def fullest_touched(rows: int, experts: int, top_k: int, ranks: int) -> float:
    """Experts that any of `rows` rows chose, of the rank of `ranks` that has most of them."""
    return _largest(-(-experts // ranks), 1 - (1 - top_k / experts) ** rows, ranks)


@cache
def fullest_rows(rows: int, experts: int, top_k: int, ranks: int) -> float:
    """Choices of `rows` rows, of the rank of `ranks` that has most of them."""
    even = rows * top_k / ranks
    if ranks == 1 or not rows:
        return even
    # The ranks' counts add up to a fixed number, which sets them further apart, and no row chooses an expert twice.
    spread = sqrt(ranks / (ranks - 1) * (experts - top_k) / max(1, experts - 1))
    return even + (_largest(rows * top_k, 1 / ranks, ranks) - even) * spread


def _largest(trials: int, chance: float, count: int) -> float:
    """Expected largest of `count` binomials of `trials`, each drawn on its own."""
    mean = trials * chance
    if count == 1 or not 0 < chance < 1:
        return mean
    width = sqrt(mean * (1 - chance))
    first = 0 if trials <= EXACT else max(0, floor(mean - TAIL * width))
    expected, below = float(first), 0.0
    for value in range(first, min(trials, first + max(EXACT, floor(2 * TAIL * width)))):
        if trials <= EXACT:
            below += comb(trials, value) * chance**value * (1 - chance) ** (trials - value)
        else:
            below = (1 + erf((value + 0.5 - mean) / (width * sqrt(2)))) / 2
        expected += 1 - min(1.0, below) ** count
    return expected
