"""Options declared once, as metadata of frozen dataclass fields, and read by the command line, files and schemas.

`option()` declares a field; `settings_of()` lists a record's fields under dotted names with type, range and flags;
`made()` turns values by name into a record.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from weft.base.errors import ConfigError

T = TypeVar("T")

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?", re.IGNORECASE)
_UNIT = {"": 1, "b": 1} | {
    f"{letter}{infix}b": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for infix, base in (("", 1000), ("i", 1024))
}


@dataclass(frozen=True, slots=True)
class Option:
    """What a field's metadata says: help text, flags (canonical first) and range."""

    help: str
    flags: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """Exclusive lower bound."""
    choices: tuple[str, ...] = ()
    unit: Literal["", "bytes"] = ""
    metavar: str = ""
    """What stands for the value in a command's help, where its type alone would mislead."""
    shorthand: tuple[tuple[str, Mapping[str, object]], ...] = ()
    """Further flags, each with the sibling fields that it sets too; for experts."""
    switches: tuple[tuple[str, object], ...] = ()
    """Further flags without a value, each with the value that it stands for; for all users."""
    expert: bool = False
    """Seldom needed: only `--help all` shows it."""


def option(default: Any, help: str, *flags: str, **bounds: Any) -> Any:
    """A dataclass field that is also an option; `...` for a field without a default. `bounds` as in `Option`."""
    metadata = {"option": Option(help, flags, **bounds)}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def seconds(default: Any, help: str, flag: str, **bounds: Any) -> Any:
    """An option of at most a day, which only experts need; above 0 unless `bounds` has another minimum."""
    least = {} if "minimum" in bounds else {"above": 0.0}
    return option(default, help, flag, **least, **bounds, maximum=86400.0, metavar="SECONDS", expert=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a record under its dotted name, with its type taken from the annotation."""

    name: str
    kind: type
    """int, float, str, bool, or tuple (a list of whole numbers)."""
    optional: bool
    default: object
    """MISSING where the field has none."""
    option: Option

    @property
    def wanted(self) -> str:
        """The legal values in words."""
        words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
        text = words.get(self.kind, "a list of whole numbers")
        if self.option.choices:
            return "one of " + ", ".join(self.option.choices)
        if self.option.unit == "bytes":
            text = "a number of bytes, or a size such as 512MiB or 2GiB"
        return ", ".join(filter(None, (text, self.range)))

    @property
    def range(self) -> str:
        """The bounds in words; nothing where there are none."""
        low, high, above = (
            bound if bound is None or not float(bound).is_integer() else int(bound)
            for bound in (self.option.minimum, self.option.maximum, self.option.above)
        )
        if low is not None and high is not None:
            return f"{low}" if low == high else f"{low} to {high}"
        bounds = (("at least", low), ("above", above), ("at most", high))
        return " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)

    def normal(self, value: object) -> object:
        """The value in the field's own type: 2.0 is 2 where a whole number is wanted, a list becomes a tuple."""
        if self.kind is int:
            return _whole(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.kind is tuple and isinstance(value, (list, tuple)):
            return tuple(_whole(item) for item in value)
        return value

    def problem(self, value: object) -> str | None:
        """What is wrong with a value: 'VALUE is not WANTED', or out of range; None when it is legal."""
        value = self.normal(value)
        if value is None and self.optional:
            return None
        items = value if self.kind is tuple and isinstance(value, tuple) and value else (value,)
        item_kind = int if self.kind is tuple and isinstance(value, tuple) else self.kind
        legal = all(type(item) is item_kind and self._is_one(item) for item in items)
        if not legal or (self.kind is tuple and not value):
            return f"{shown(value)} is not {self.wanted}"
        strange = [item for item in items if not self._in_range(item)]
        return f"{strange[0]} is out of range; legal: {self.range}" if strange else None

    def _is_one(self, value: object) -> bool:
        """Of a value of the right type: whether it is one of the choices, a word, a number."""
        if self.option.choices:
            return value in self.option.choices
        return math.isfinite(value) if isinstance(value, float) else value != ""

    def _in_range(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        low, high, above = self.option.minimum, self.option.maximum, self.option.above
        return (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)

    def parse(self, word: str) -> object:
        """The value of a word of the command line; argparse's error where it has the wrong type."""
        try:
            return self._parse(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not {self.wanted}") from None

    def _parse(self, word: str) -> object:
        if self.option.unit == "bytes":
            return parse_bytes(word)
        if self.kind is tuple:
            return tuple(int(part) for part in word.split(","))
        if self.option.choices and word not in self.option.choices:
            raise ValueError(word)
        return self.kind(word)

    def schema(self) -> dict[str, object]:
        """JSON schema of the field."""
        if self.option.choices:
            values: list[object] = [*self.option.choices, *([None] if self.optional else [])]
            return {"description": self.option.help, "enum": values}
        name = {int: "integer", float: "number", str: "string", bool: "boolean", tuple: "array"}[self.kind]
        schema: dict[str, object] = {"description": self.option.help, "type": [name, "null"] if self.optional else name}
        bounds = {
            "minimum": self.option.minimum,
            "maximum": self.option.maximum,
            "exclusiveMinimum": self.option.above,
        }
        limits: dict[str, object] = {word: bound for word, bound in bounds.items() if bound is not None}
        if self.kind is tuple:
            return schema | {"items": {"type": "integer"} | limits, "minItems": 1}
        return schema | limits | ({"minLength": 1} if self.kind is str else {})


def check_range(flag: str, value: int, minimum: int, maximum: int | None = None) -> None:
    """ConfigError for a flag's number that is out of range, in the words of a field's that is."""
    problem = Setting(flag, int, False, MISSING, Option("", minimum=minimum, maximum=maximum)).problem(value)
    if problem:
        raise ConfigError(f"{flag}: {problem}", field=flag.removeprefix("--").replace("-", "_"), value=value)


REMOVED = {
    "prune_argmax": "logits are no longer bounded before they are computed; leave the option out",
    "screen_logits": "logits are no longer bounded before they are computed; leave the option out",
    "lend_cores": "ranks no longer run parts of each other's work; leave the option out",
    "steal_work": "ranks no longer run parts of each other's work; leave the option out",
}
"""Options of earlier versions, and what to do instead."""


def removed(name: str) -> str | None:
    """What to do instead of an option that is gone, by its field's name or its flag; None for other names."""
    words = name.removeprefix("--").replace("-", "_")
    return REMOVED.get(words) or REMOVED.get(words.removeprefix("no_"))


def made(record: type[T], values: Mapping[str, object]) -> T:
    """A dataclass of values by the names of its fields, which are known at run time only. The record checks values;
    ConfigError: a name that is no field of it, or a field without a default that is not among them."""
    needed = _names(record)
    for name in values:
        if name not in needed:
            legal = tuple(needed)
            why = f": {removed(name)}" if removed(name) else nearest(name, legal)
            problem = f"{record.__name__} has no field {name}{why}"
            raise ConfigError(problem, field=name, value=values[name], legal=legal)
    missing = [name for name, wanted in needed.items() if wanted and name not in values]
    if missing:
        raise ConfigError(f"{record.__name__} needs {', '.join(missing)}", field=missing[0])
    construct: Callable[..., T] = record
    return construct(**values)


def check_fields(record: object) -> None:
    """ConfigError: a field that is an option has an impossible value."""
    kind: type = type(record)
    for setting in settings_of(kind):
        value = getattr(record, setting.name)
        if problem := setting.problem(value):
            legal = setting.option.choices
            raise ConfigError(f"{setting.name}: {problem}", field=setting.name, value=value, legal=legal)


def _names(record: type) -> dict[str, bool]:
    """Fields of a record that its constructor takes -> whether it must be given."""
    return {
        item.name: item.default is MISSING and item.default_factory is MISSING for item in fields(record) if item.init
    }


@lru_cache(maxsize=64)
def settings_of(record: type, prefix: str = "") -> tuple[Setting, ...]:
    """All option fields of a record and of the records inside it, under dotted names, in order of declaration."""
    hints = get_type_hints(record)
    found: list[Setting] = []
    for item in fields(record):
        kind, optional = _plain(hints[item.name])
        if is_dataclass(kind):
            found += settings_of(kind, f"{prefix}{item.name}.")
        elif "option" in item.metadata:
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            found.append(Setting(f"{prefix}{item.name}", kind, optional, default, item.metadata["option"]))
    return tuple(found)


def parse_bytes(word: str) -> int:
    """Bytes of '2GiB', '512MiB', '1.5GB' or '1073741824'; ValueError otherwise."""
    match = _BYTES.fullmatch(word.strip())
    if match is None:
        raise ValueError(word)
    whole = float(match[1]) * _UNIT[(match[2] or "").lower()] if "." in match[1] else None
    if whole is not None and not whole.is_integer():
        raise ValueError(word)
    return int(whole) if whole is not None else int(match[1]) * _UNIT[(match[2] or "").lower()]


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known name nearest to an unknown one, or nothing."""
    # dashes are in every option: they say nothing about likeness
    bare = {each.lstrip("-"): each for each in known}
    found = get_close_matches(name.lstrip("-"), list(bare), n=1, cutoff=0.6)
    return f"; did you mean {bare[found[0]]}?" if found else ""


def _plain(hint: Any) -> tuple[type, bool]:
    """The type in an annotation, and whether None is legal too."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = [item for item in options if item is not NoneType]
    kind = plain[0]
    if get_origin(kind) is Literal:
        kind = str
    return get_origin(kind) or kind, len(plain) < len(options)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shown(value: object) -> str:
    """A value as messages show it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)
