"""Values that a file states, taken one by one: numbers, switches and words with their places.

A value that depends on a variable is open; a key given twice with two values is a conflict that shows both lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from weft.base.options import nearest
from weft.tools.dialects.base import Context, Document, Draft, File, Where
from weft.tools.dialects.sizes import Size
from weft.tools.dialects.sources.documents.tree import Node, TreeEntry, variables_in

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Stated:
    """A value under the name that the text uses for it."""

    name: str
    value: object
    where: Where | None = None
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.name} {shown(self.value)}{place}"


class Values:
    """What a text states, by the engine's canonical names; later sources win over earlier ones, with a note."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.given: dict[str, Stated] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def where(self, name: str) -> Where | None:
        """Where it stands, if it is given."""
        return self.given[name].where if name in self.given else None

    def add(self, name: str, stated: Stated) -> None:
        """A value; one that is there already and differs is overruled, as engines do with files over flags."""
        before = self.given.get(name)
        if before is not None and before.value != stated.value:
            message = f"{before} is overruled by {stated}"
            self.draft.note("warning", "conflict", message, stated.where)
        self.given[name] = stated

    def take(self, node: Node | None, name: str, *path: str) -> Node | None:
        """Adds the scalar under `path` of a mapping as `name`; gives its node."""
        found = node.get(*path) if node is not None else None
        if found is not None and found.entries is None and found.items is None:
            self.add(name, Stated(path[-1], found.scalar, found.where, variables_in(found.scalar)))
        return found

    def number(self, name: str, default: Size = 1, minimum: int = 1, off: tuple[int, ...] = ()) -> Size:
        """A whole number; None while it is open, the default where it is not given or has a value of `off`."""
        stated = self.given.get(name)
        if stated is None or stated.value is None and not stated.variables:
            return default
        value = self._set(name, stated)
        if value is None:
            self.draft.open(stated.name, stated.variables, stated.where)
            return None
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d{1,18}", value):
            self.draft.note("info", "quoted", f"{stated.name} {value!r} was read as a number", stated.where)
            value = int(value)
        if type(value) is not int:
            self.draft.refuse(f"{stated.name} {shown(value)}: not a whole number", (), stated.where)
            return default
        if value in off:
            return default
        if value < minimum:
            self.draft.refuse(f"{stated.name} {value}: at least {minimum}", (), stated.where)
            return default
        return value

    def _set(self, name: str, stated: Stated) -> object:
        """The value, from --set where it depends on a variable; None while that is not given."""
        settings = self.draft.context.settings
        given = next((settings[key] for key in (name, stated.name, *stated.variables) if key in settings), None)
        if not stated.variables:
            return stated.value
        if given is None:
            return None
        return int(given) if re.fullmatch(r"[-+]?\d{1,18}", given) else given

    def switch(self, name: str, default: bool = False) -> bool:
        """Whether something is on; the default where that is open (see `open_switch`)."""
        return self.open_switch(name, default) or False

    def open_switch(self, name: str, default: bool = False) -> bool | None:
        """Whether something is on; None, with a note, while that depends on a variable."""
        stated = self.given.get(name)
        if stated is None or stated.value is None and not stated.variables:
            return default
        value = self._set(name, stated)
        if isinstance(value, bool):
            return value
        if str(value).lower() in (*_TRUE, *_FALSE):
            return str(value).lower() in _TRUE
        if value is None:
            self.draft.open(stated.name, stated.variables, stated.where)
            return None
        self.draft.refuse(f"{stated.name} {shown(value)}: not true or false", (True, False), stated.where)
        return default

    def text(self, name: str, default: str = "") -> str:
        """A word."""
        stated = self.given.get(name)
        return str(stated.value) if stated is not None and stated.value is not None else default

    def label(self, name: str) -> str:
        """How a message names it: as the text does."""
        return self.given[name].name if name in self.given else name


def shown(value: object) -> str:
    """A value as a person would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) and not re.fullmatch(r"[\w./${}-]+", value) else str(value)


def report_repeated(draft: Draft, root: Node, sizes: Iterable[str]) -> None:
    """Keys that stand twice: two values of a size are refused, of anything else a warning; both lines are shown."""
    names = set(sizes)
    for entry in root.repeated():
        for other in entry.again:
            _report(draft, entry, other, entry.key in names)


def _report(draft: Draft, entry: TreeEntry, other: TreeEntry, size: bool) -> None:
    lines = f"in line {entry.where.line} and in line {other.where.line}"
    first, second = entry.node.plain(), other.node.plain()
    if first == second:
        draft.note("info", "twice", f"{entry.key} is given twice, {lines}", other.where)
        return
    values = ""
    if entry.node.entries is None and other.node.entries is None:
        values = f" as {shown(first)} and as {shown(second)}"
    message = f"{entry.key} is given twice{values}, {lines}"
    if size or entry.node.entries is not None:
        draft.note("error", "conflict", message, other.where)
        draft.refuse(message, () if entry.node.entries is not None else (first, second), other.where)
    else:
        draft.note("warning", "conflict", f"{message}; the engine takes the last", other.where)


def report_unknown(draft: Draft, entry: TreeEntry, path: str, known: Iterable[str]) -> None:
    """A key that the engine does not know, with the nearest one that it does."""
    draft.note("warning", "unknown-key", f"unknown key {path}{entry.key}{nearest(entry.key, known)}", entry.where)


def named_file(document: Document, context: Context, path: str) -> File | None:
    """A file by the name that a command gives it: written by the same text, or read beside it."""
    base = path.rsplit("/", 1)[-1]
    for name, file in document.files.items():
        if name == path or name.rsplit("/", 1)[-1] == base:
            return file
    text = context.read_file(path) if context.read_file is not None else None
    return File(text, 1) if text is not None else None


def flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested data under dotted names."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
