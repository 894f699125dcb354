"""Seconds from counts and rates: the one place where a rate meets a term. Says nothing of layouts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weft.tools.plan.clusters import Rates


@dataclass(frozen=True, slots=True)
class Term:
    """A product, a read of keys or a collective, once, on its fullest rank: bytes of memory or received, and
    multiplications. `group`: ranks of the collective; 0: none. `crosses`: nodes."""

    name: str
    nbytes: float
    multiplications: float = 0.0
    group: int = 0
    crosses: bool = False


def seconds_of(term: Term, rates: Rates, scale: float = 1.0) -> float:
    """Of one term. A product takes the longest of its bytes, its multiplications and a floor; a collective a floor for
    each message that waits for others, and its bytes. `scale`: how many times a device's rates the rank has."""
    if term.group:
        link, floor = (rates.across, rates.across_floor) if term.crosses else (rates.inside, rates.inside_floor)
        return floor * (1 + term.name.endswith("+")) + term.nbytes / link
    bound = max(term.nbytes / rates.bandwidth, term.multiplications / rates.products) / scale
    return max(bound, rates.product_floor)


def total(terms: Iterable[Term], rates: Rates, scale: float = 1.0) -> float:
    """Of terms that follow each other."""
    return sum(seconds_of(term, rates, scale) for term in terms)


def bounded_by(term: Term, rates: Rates) -> str:
    """What decides the time of a term, for people."""
    if term.group:
        return "across nodes" if term.crosses else "collectives"
    parts = {
        "bytes of memory": term.nbytes / rates.bandwidth,
        "multiplications": term.multiplications / rates.products,
        "floors": rates.product_floor,
    }
    return max(parts, key=lambda name: parts[name])
