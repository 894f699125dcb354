"""argparse options for settings: they collect the given values, and the flag that gave each."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from weft.base.errors import ConfigError, UsageError
from weft.base.options import Setting, shown
from weft.cli.args.parser import Expert

_NO = "--no-"


@dataclass(frozen=True, slots=True)
class GivenValue:
    """A value from the command line and the flag that gave it."""

    value: object
    flag: str


def values_of(entries: Mapping[str, GivenValue]) -> dict[str, object]:
    """The values alone, by field."""
    return {name: entry.value for name, entry in entries.items()}


def words_of(settings: Iterable[Setting], entries: Mapping[str, GivenValue]) -> list[str]:
    """Words of the command line that give these values."""
    known = {setting.name: setting for setting in settings}
    return [word for name, entry in entries.items() for word in _words(known[name], entry.value)]


def _words(setting: Setting, value: object) -> list[str]:
    flag = setting.option.flags[0]
    if value is None:
        return []
    if setting.kind is bool:
        return [flag if value else _NO + flag.removeprefix("--")]
    return [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


_OFF = -1
"""MindIE's default of its local sizes, which are then as without the flag."""


class _Collect(argparse.Action):
    """Stores values under their dotted names in one dict of the namespace; refuses two different values, and values out
    of the setting's range, and names the flag."""

    def __init__(self, *, sets: Mapping[str, object], setting: Setting, const: object = None, **rest: Any) -> None:
        super().__init__(const=const, **rest)
        self.sets, self.setting = sets, setting

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, flag: str | None = None) -> None:
        given: dict[str, GivenValue] = dict(getattr(namespace, self.dest, None) or {})
        value = _constant(self.const, flag) if self.nargs == 0 else values
        if value == _OFF and flag in [each for each, _ in self.setting.option.shorthand]:
            setattr(namespace, self.dest, given)
            return
        if (problem := self.setting.problem(value)) is not None:
            legal = self.setting.option.choices
            raise ConfigError(f"{flag}: {problem}", field=self.setting.name, value=value, legal=legal)
        for name, new in {self.setting.name: value, **self.sets}.items():
            entry = GivenValue(new, flag or name)
            _refuse_another(given.setdefault(name, entry), entry)
        setattr(namespace, self.dest, given)


def _constant(value: object, flag: str | None) -> object:
    """What a flag without a value stands for: its --no- form for the opposite."""
    return not value if flag is not None and flag.startswith(_NO) else value


class Once(argparse.Action):
    """Stores a value; refuses a second, different one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._first: GivenValue | None = None

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, flag: str | None = None) -> None:
        entry = GivenValue(values, flag or self.dest)
        self._first = self._first or entry
        _refuse_another(self._first, entry)
        setattr(namespace, self.dest, values)


def _refuse_another(before: GivenValue, entry: GivenValue) -> None:
    if before.value != entry.value:
        raise UsageError(
            f"{before.flag} {shown(before.value)} and {entry.flag} {shown(entry.value)} contradict each other"
        )


def add_flags(parser: argparse._ActionsContainer, settings: Iterable[Setting], dest: str) -> None:
    """Adds an option for each setting that has flags; the namespace gets `dest`: {dotted name: GivenValue}."""
    parser.set_defaults(**{dest: {}})
    for setting in settings:
        if not setting.option.flags:
            continue
        if setting.kind is bool:
            _add_switch(parser, setting, dest)
        else:
            _add_value(parser, setting, dest, setting.option.flags, {})
        for flag, siblings in setting.option.shorthand:
            stem = setting.name.rpartition(".")[0]
            sets = {f"{stem}.{name}" if stem else name: value for name, value in siblings.items()}
            _add_value(parser, setting, dest, (flag,), sets)
        for flag, value in setting.option.switches:
            _add_constant(parser, setting, dest, (flag,), value, f"the same as {setting.option.flags[0]} {value}")


def _add_value(
    parser: argparse._ActionsContainer,
    setting: Setting,
    dest: str,
    flags: Sequence[str],
    sets: Mapping[str, object],
) -> None:
    also = " and ".join(f"{name} {value}" for name, value in sets.items())
    text = setting.option.help + (f"; also sets {also}" if also else _default(setting))
    parser.add_argument(
        *flags,
        action=_Collect,
        setting=setting,
        sets=sets,
        dest=dest,
        default=argparse.SUPPRESS,
        type=setting.parse,
        metavar="{" + ",".join(setting.option.choices) + "}" if setting.option.choices else _metavar(setting),
        help=Expert(text) if setting.option.expert or also else text,
    )


def _add_switch(parser: argparse._ActionsContainer, setting: Setting, dest: str) -> None:
    both = [name for flag in setting.option.flags for name in (flag, _NO + flag.removeprefix("--"))]
    default = "" if setting.default is None else f" (default: {'on' if setting.default else 'off'})"
    text = setting.option.help + default
    _add_constant(parser, setting, dest, both, True, Expert(text) if setting.option.expert else text)


def _add_constant(
    parser: argparse._ActionsContainer, setting: Setting, dest: str, flags: Sequence[str], value: object, help: str
) -> None:
    parser.add_argument(
        *flags,
        action=_Collect,
        setting=setting,
        sets={},
        dest=dest,
        default=argparse.SUPPRESS,
        nargs=0,
        const=value,
        help=help,
    )


def _default(setting: Setting) -> str:
    """The default for the help text; empty where the help names it or there is none."""
    default = setting.default
    if default is None or default is MISSING or default == () or "default" in setting.option.help:
        return ""
    if setting.option.unit == "bytes" and isinstance(default, int) and not default % 2**20:
        return f" (default: {default >> 20}MiB)"
    return f" (default: {default})"


def _metavar(setting: Setting) -> str:
    if setting.option.unit == "bytes":
        return "BYTES"
    return setting.option.metavar or {int: "N", float: "X", tuple: "N,N,..."}.get(setting.kind, "NAME")
