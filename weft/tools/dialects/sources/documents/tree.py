"""Documents as trees with places: mappings, lists and scalars, duplicate keys kept, variables open by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from weft.tools.dialects.base import Diagnostic, Where
from weft.tools.dialects.values import open_name

_INTEGER = re.compile(r"[-+]?\d[\d_]{0,18}")
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d{1,3})?")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)|<([^<>]+)>|\{\{\s*([\w.]+)\s*\}\}")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "on", "On"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "off", "Off"), False),
    **dict.fromkeys(("null", "Null", "NULL", "None", "~", "")),
}


@dataclass(slots=True)
class TreeEntry:
    """A key with its value; `again` are later entries of the same key."""

    key: str
    where: Where
    node: Node
    again: list[TreeEntry] = field(default_factory=list)


@dataclass(slots=True)
class Node:
    """A mapping (`entries`), a list (`items`) or a scalar."""

    where: Where
    scalar: object = None
    entries: dict[str, TreeEntry] | None = None
    items: list[Node] | None = None
    elided: bool = False
    """'...' stands in it: the text shows only a part."""

    def get(self, *path: str) -> Node | None:
        """The node under keys, one inside the other; None where one is missing."""
        node: Node | None = self
        for key in path:
            entry = node.entries.get(key) if node is not None and node.entries is not None else None
            node = entry.node if entry else None
        return node

    def plain_value(self, *path: str) -> object:
        """The Python data under keys; None where one is missing."""
        node = self.get(*path)
        return node.plain() if node is not None else None

    def keys(self) -> set[str]:
        """Keys of a mapping; empty for anything else."""
        return set(self.entries or ())

    def names(self) -> set[str]:
        """Keys at any depth."""
        return self.keys().union(*(node.names() for node in self.inside()))

    def inside(self) -> Iterator[Node]:
        """The values of a mapping or of a list."""
        yield from (entry.node for entry in (self.entries or {}).values())
        yield from self.items or ()

    def plain(self) -> object:
        """As Python data."""
        if self.entries is not None:
            return {key: entry.node.plain() for key, entry in self.entries.items()}
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.scalar

    def add(self, entry: TreeEntry) -> None:
        """A further entry of a mapping."""
        assert self.entries is not None
        before = self.entries.setdefault(entry.key, entry)
        if before is not entry:
            before.again.append(entry)

    def repeated(self) -> Iterator[TreeEntry]:
        """Entries whose key stands more than once, at any depth."""
        for entry in (self.entries or {}).values():
            if entry.again:
                yield entry
            yield from entry.node.repeated()
        for item in self.items or ():
            yield from item.repeated()

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """Dotted names -> scalars and lists."""
        if self.entries is None:
            yield prefix.rstrip("."), self
            return
        for key, entry in self.entries.items():
            yield from entry.node.leaves(f"{prefix}{key}.")


@dataclass(slots=True)
class Tree:
    """What a text holds: its root, or the first mistake that makes it unreadable; and notes about what was mended."""

    root: Node | None
    notes: list[Diagnostic] = field(default_factory=list)
    problem: Diagnostic | None = None
    name: str = ""
    """The comment above a variant."""


def scalar(text: str, quoted: bool) -> object:
    """The value of a scalar as it stands in a file."""
    if quoted:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    return float(text) if _FLOAT.fullmatch(text) else text


def variables_in(value: object) -> tuple[str, ...]:
    """Names of what a scalar still depends on: $TP, ${TP}, <tp>, {{ tp }}, or a placeholder alone."""
    if not isinstance(value, str):
        return ()
    found = [next(group for group in match.groups() if group) for match in _VARIABLE.finditer(value)]
    alone = open_name(value)
    return tuple(dict.fromkeys(found or ([alone] if alone else [])))
