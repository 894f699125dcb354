"""Dominance: which size of a module is not less than another in anything that its fullest rank reads, multiplies,
receives, calls or holds. Needs no rate, so what it removes is the fastest on no machine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from weft.tools.plan.parts import Part, Phase, Size
from weft.tools.plan.times import Term


@dataclass(frozen=True, slots=True)
class Dominated:
    """`module` of size `size` is removed by size `by`; `more`: what it has more of, in a decode step of one layer."""

    module: str
    size: Size
    by: Size
    more_bytes: float
    more_received: float
    more_calls: int
    more_held: int


Amounts = dict[tuple[object, ...], tuple[float, float, float]]
"""Bytes, multiplications and number of each kind of term."""


def dominated(part: Part, other: Part, phases: tuple[Phase, ...], ample: bool) -> Dominated | None:
    """Why `other` is better than `part` in everything, where it is; of two that are equal the smaller size stays.
    `ample`: memory holds all streams with the largest of everything, so that what is saved of it is worth nothing."""
    smaller = any(more < less for more, less in zip(part.held, other.held, strict=True))
    if part.size == other.size or (smaller and not ample):
        return None
    equal = ample or part.held == other.held
    for phase in phases:
        mine, theirs = amounts(part.terms[phase]), amounts(other.terms[phase])
        if not theirs.keys() <= mine.keys():
            return None
        for key, own in mine.items():
            least = theirs.get(key, (0.0, 0.0, 0.0))
            if any(more < less for more, less in zip(own, least, strict=True)):
                return None
            equal = equal and own == least
    if equal and str(part.size) < str(other.size):
        return None
    return _why(part, other, phases[0])


def amounts(terms: tuple[Term, ...]) -> Amounts:
    """Products each by its name; collectives by their group and what they cross, for these share a floor and a rate."""
    found: Amounts = defaultdict(lambda: (0.0, 0.0, 0.0))
    for term in terms:
        key = (term.group, term.crosses) if term.group else (term.name,)
        nbytes, products, calls = found[key]
        messages = 1 + term.name.endswith("+")
        found[key] = nbytes + term.nbytes, products + term.multiplications, calls + messages
    return dict(found)


def _why(part: Part, other: Part, phase: Phase) -> Dominated:
    def summed(one: Part) -> tuple[float, float, int]:
        terms = one.terms[phase]
        read = sum(term.nbytes for term in terms if not term.group)
        received = sum(term.nbytes for term in terms if term.group)
        return read, received, sum(1 for term in terms if term.group)

    mine, theirs = summed(part), summed(other)
    held = max(part.held) - max(other.held)
    return Dominated(
        part.module, part.size, other.size, mine[0] - theirs[0], mine[1] - theirs[1], mine[2] - theirs[2], held
    )
