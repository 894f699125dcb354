"""Fields: the values of one JSON object, or of a table of metadata, each read with its kind and range.

Every field of a model's files is read through it, so that a wrong value ends in a line with file, field, value and what
is legal, whichever reader met it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from weft.base.errors import FieldError
from weft.base.options import nearest
from weft.base.printable import printable

SHOWN = 60
"""Characters of a wrong value that are shown."""
LARGEST = 2**31 - 1
"""Largest size of anything in a model."""
Raw = Mapping[str, Any]


class Fields:
    """`where`: the file, and the object in it, as messages name them. null is the same as a field that is missing."""

    def __init__(self, values: Raw, where: str) -> None:
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def whole(self, key: str, default: int | None = None, *, low: int = 1, high: int = LARGEST) -> int:
        """A whole number from `low` to `high`; a field without default must be there."""
        value = self._value(key, default)
        if type(value) is int and low <= value <= high:
            return value
        raise self.wrong(key, f"a whole number from {low} to {high}", _near(value, low, high))

    def number(
        self, key: str, default: float | None = None, *, low: float = 0.0, high: float = math.inf, above: bool = True
    ) -> float:
        """A finite number above `low` (not `above`: or equal to it), up to `high`."""
        value = self._value(key, default)
        kind = type(value) is int and abs(value) < 2**63 or type(value) is float
        if kind and math.isfinite(value) and low <= value <= high and not (above and value == low):
            return float(value)
        bound = f"above {low:g}" if above else f"of {low:g} or more"
        legal = f"a number {bound}" + ("" if high == math.inf else f", {high:g} at most")
        raise self.wrong(key, legal, _near(value, low, high) if high != math.inf else "")

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._value(key, default)
        if isinstance(value, bool):
            return value
        raise self.wrong(key, "true or false")

    def text(self, key: str, default: str | None = None, *, longest: int = 1 << 20) -> str:
        """A string."""
        value = self._value(key, default)
        if isinstance(value, str) and len(value) <= longest:
            return value
        raise self.wrong(key, "a string" if not isinstance(value, str) else f"at most {longest} characters")

    def word(self, key: str, legal: Iterable[str], default: str | None = None) -> str:
        """One of the strings `legal`."""
        value, known = self._value(key, default), tuple(legal)
        if isinstance(value, str) and value in known:
            return value
        near = nearest(value[:SHOWN], known) if isinstance(value, str) else ""
        raise self.wrong(key, ", ".join(known), near.removeprefix("; "))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where the field is missing."""
        value = self.values.get(key)
        if value is None:
            return ()
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self.wrong(key, "a list of strings")

    def wholes(self, key: str, *, low: int = 0, high: int = LARGEST) -> tuple[int, ...]:
        """A list of whole numbers from `low` to `high`; empty where the field is missing."""
        value = self.values.get(key)
        if value is None:
            return ()
        if isinstance(value, list | tuple) and all(type(item) is int and low <= item <= high for item in value):
            return tuple(value)
        raise self.wrong(key, f"a list of whole numbers from {low} to {high}")

    def numbers(self, key: str, count: int, *, low: float, high: float) -> tuple[float, ...]:
        """A list of `count` finite numbers from `low` to `high`."""
        value = self.values.get(key)
        if isinstance(value, list | tuple) and len(value) == count:
            if all(type(item) in (int, float) and low <= item <= high for item in value):
                return tuple(map(float, value))
        raise self.wrong(key, f"a list of {count} numbers from {low:g} to {high:g}")

    def ids(self, key: str, below: int = 1 << 32) -> tuple[int, ...]:
        """A token id, or a list of them."""
        value = self.values.get(key)
        if type(value) is int and 0 <= value < below:
            return (value,)
        if value is None or isinstance(value, list | tuple):
            if all(type(item) is int and 0 <= item < below for item in value or ()):
                return tuple(value or ())
        raise self.wrong(key, f"a token id or a list of ids, from 0 to {below - 1}")

    def inner(self, key: str) -> Fields | None:
        """The object under `key`; None where it is missing, or empty."""
        value = self.values.get(key)
        if value is None or value == {}:
            return None
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return Fields(value, f"{self.where}: {key}")
        raise self.wrong(key, "an object")

    def wrong(self, key: str, legal: str, remedy: str = "") -> FieldError:
        """The error for the value of `key`, with what is legal, and what to do."""
        value = self.values.get(key)
        end = f"; {remedy}" if remedy else ""
        if value is None:
            message = f"{self.where}: {key} is missing; legal: {legal}{end}"
        else:
            message = f"{self.where}: {key} {shown(value)}: legal: {legal}{end}"
        return FieldError(message, field=key, value=value)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value


def shown(value: object) -> str:
    """A value of a file in a message."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return f"of {value.bit_length()} bits"
    if isinstance(value, list | tuple | Mapping) and len(value) > SHOWN:
        return f"with {len(value)} entries"
    return printable(str(value) if isinstance(value, bool) else repr(value), SHOWN)


def _near(value: object, low: float, high: float) -> str:
    """The legal value nearest to a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_finite(value)):
        return ""
    near = min(max(_finite(value), low), high)
    return f"nearest: {round(near)}" if isinstance(low, int) else f"nearest: {near:g}"


def _finite(value: int | float) -> float:
    """`value` as a float; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
