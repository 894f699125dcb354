"""Bounds of numbers as the grammar library can keep them: none lets a number through that the schema forbids.

The library takes an exclusive bound that is a whole number for inclusive where the other bound has the same whole part,
and reads numbers of more than 15 digits inexactly. So such a bound becomes the number of 15 digits beside it, and a
longer one is rounded towards the numbers that it allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from math import isfinite
from typing import Any

DIGITS = 15
EXACT = Decimal(2**53)
"""Whole numbers up to this one are read exactly."""
MOST = Decimal(10**18)
"""The library has no regular expression of bounds beyond 64 bits."""
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
BOUNDS = frozenset({*_LOWER, *_UPPER})


class UnheldBoundError(Exception):
    """No grammar keeps to it; its keyword, and why."""


def kept_bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The bounds of `schema`. UnheldBoundError: one cannot be kept."""
    lower, upper = _tightest(schema, _LOWER), _tightest(schema, _UPPER)
    kept = [(_LOWER, lower), (_UPPER, upper)]
    return {words[bound.exclusive]: bound.plain() for words, bound in kept if bound is not None}


@dataclass(frozen=True, slots=True)
class _Bound:
    value: Decimal
    exclusive: bool

    def plain(self) -> int | float:
        whole = self.value == self.value.to_integral_value()
        return int(self.value) if whole else float(self.value)


def _tightest(schema: Mapping[str, Any], keywords: tuple[str, str]) -> _Bound | None:
    """Of the inclusive and the exclusive bound of one side; None: there is none."""
    plain, exclusive = keywords
    sign = 1 if keywords is _LOWER else -1
    found = []
    for keyword in keywords:
        value = schema.get(keyword)
        if keyword not in schema or (keyword == exclusive and isinstance(value, bool)):
            continue  # in draft 4 `true` says how the other bound is meant
        is_exclusive = keyword == exclusive or schema.get(exclusive) is True
        found.append(_kept(keyword, value, sign, is_exclusive, schema.get("type") == "integer"))
    return max(found, key=lambda bound: (sign * bound.value, bound.exclusive), default=None)


def _kept(keyword: str, value: Any, sign: int, exclusive: bool, integral: bool) -> _Bound:
    """`sign`: 1 for a lower bound, -1 for an upper one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UnheldBoundError(keyword, "a number is needed")
    rounds = Context(DIGITS, ROUND_CEILING if sign > 0 else ROUND_FLOOR)
    given = Decimal(repr(value))
    whole = given == given.to_integral_value()
    bound = given if whole and abs(given) <= EXACT else rounds.create_decimal(given)
    if exclusive and bound == given and whole and (integral or sign * bound >= 0):
        # On the other side of zero no number within the bounds has the same whole part.
        step = Decimal(10) ** ((bound.adjusted() + 1 if bound else 0) - DIGITS)
        beside = bound + sign * (max(step, Decimal(1)) if integral else step)
        bound = beside if integral and abs(beside) <= EXACT else rounds.create_decimal(beside)
    if sign * bound > MOST:
        raise UnheldBoundError(keyword, f"a bound between {-MOST:f} and {MOST:f} is needed")
    return _Bound(sign * max(sign * bound, -MOST), exclusive and bound == given)
