"""Declarative tables of an engine's flags, and the words of a command line read with them.

Long and short names, `--a b` and `--a=b`, unambiguous prefixes, underscores, dotted JSON arguments, deprecated and
removed flags; the same flag twice with two values is a conflict that shows both places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from weft.base.options import nearest
from weft.tools.dialects.base import OPEN_NODE, Draft, Where, Word
from weft.tools.dialects.values import FlagKind, Value, open_name, read_value

Status = Literal["", "deprecated", "removed"]
_KINDS = ("int", "float", "str", "switch", "boolean", "json", "list", "maybe")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag; `dest` is its name among the arguments and options."""

    dest: str
    names: tuple[str, ...]
    kind: FlagKind
    size: bool = False
    choices: tuple[str, ...] = ()
    status: Status = ""
    hint: str = ""


def parse_table(*texts: str) -> tuple[Flag, ...]:
    """Flags of tables, one a line: `names [as dest]  kind  [choices a|b]  [deprecated: hint]`, two blanks between.

    A line that starts with `*` is a size of the layout: two different values for it are refused.
    """
    return tuple(_flag(line.strip()) for text in texts for line in text.splitlines() if line.strip())


def _flag(line: str) -> Flag:
    size = line.startswith("*")
    names_text, kind, *rest = re.split(r" {2,}", line.lstrip("* "))
    names_text, _, dest = names_text.partition(" as ")
    names = tuple(names_text.split())
    assert kind in _KINDS, line
    choices: tuple[str, ...] = ()
    status, hint = "", ""
    for part in rest:
        word, _, value = part.partition(" ")
        if word == "choices":
            choices = tuple(value.split("|"))
        else:
            status, hint = word.rstrip(":"), value
    dest = dest or names[0].lstrip("-").replace("-", "_")
    return Flag(dest, names, cast(FlagKind, kind), size, choices, cast(Status, status), hint)


@dataclass(frozen=True, slots=True)
class Table:
    """All flags of a command, and what its parser allows."""

    flags: tuple[Flag, ...]
    prefixes: bool = True
    underscores: bool = False
    """The parser itself takes --a_b for --a-b."""
    dotted: bool = False
    """The parser takes --json.key value."""
    names: dict[str, Flag] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for flag in self.flags:
            for name in flag.names:
                self.names[name] = flag
                if flag.kind == "boolean" and name.startswith("--"):
                    self.names["--no-" + name[2:]] = flag


@dataclass(frozen=True, slots=True)
class Argument:
    """A flag as it was given."""

    flag: Flag
    name: str
    value: Value
    where: Where
    variables: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """As in a message: `--tp 8 (line 1, column 7)`."""
        value = "" if self.flag.kind in ("switch", "boolean") else f" {self.value}"
        return f"{self.name}{value} ({self.where})"


class Arguments:
    """What a command line gives, by dest; reading a value notes what is open about it."""

    def __init__(self, table: Table, draft: Draft) -> None:
        self.table, self.draft = table, draft
        self.given: dict[str, Argument] = {}
        self.positional: list[Word] = []

    def __contains__(self, dest: str) -> bool:
        return dest in self.given

    def where(self, dest: str) -> Where | None:
        """Its place, if it was given."""
        return self.given[dest].where if dest in self.given else None

    def text(self, dest: str, default: str = "") -> str:
        """A word; the default where it was not given."""
        value = self.given[dest].value if dest in self.given else None
        return str(value) if value is not None else default

    def switch(self, dest: str) -> bool:
        """Whether a switch is on."""
        return dest in self.given and self.given[dest].value is not False

    def mapping(self, dest: str) -> dict[str, object]:
        """A JSON argument that is an object."""
        value = self.given[dest].value if dest in self.given else None
        return value if isinstance(value, dict) else {}

    def number(self, dest: str, default: int | None = 1, minimum: int = 1) -> int | None:
        """A whole number; None while it is open. Refuses what is below the minimum."""
        argument = self.given.get(dest)
        if argument is None:
            return default
        if argument.variables:
            self.draft.open(argument.name, argument.variables, argument.where)
            return None
        if not isinstance(argument.value, int):
            return default
        if argument.value < minimum:
            self.draft.refuse(f"{argument.name} {argument.value}: at least {minimum}", (), argument.where)
            return default
        return argument.value

    def node_rank(self) -> int:
        """--node-rank; OPEN_NODE where it depends on a variable, which leaves no size open."""
        argument = self.given.get("node_rank")
        if argument is not None and argument.variables:
            names = ", ".join(argument.variables)
            message = f"{argument.name} depends on {names}: one command for every node"
            self.draft.note("info", "open-option", message, argument.where)
            return OPEN_NODE
        return self.number("node_rank", 0, minimum=0) or 0

    def add(self, argument: Argument) -> None:
        """Keeps an argument; a second one for the same dest must agree with the first."""
        flag = argument.flag
        before = self.given.get(flag.dest)
        if before is not None and flag.kind == "json":
            _merge(before.value, argument.value)
            return
        self.given[flag.dest] = argument
        if before is None:
            return
        if before.value == argument.value:
            self.draft.note("info", "twice", f"{before.shown} is given again by {argument.shown}", argument.where)
        elif flag.size:
            self.draft.refuse(f"{before.shown} and {argument.shown} contradict each other", (), argument.where)
        else:
            message = f"{before.shown} and {argument.shown} contradict each other; the engine takes the last"
            self.draft.note("warning", "conflict", message, argument.where)


def _merge(into: Value, more: Value) -> None:
    if isinstance(into, dict) and isinstance(more, dict):
        for key, value in more.items():
            if isinstance(into.get(key), dict) and isinstance(value, dict):
                _merge(cast(Value, into[key]), value)
            else:
                into[key] = value


def parse(words: Sequence[Word], table: Table, draft: Draft) -> Arguments:
    """Arguments of a command line; what is unknown or wrong becomes a note or a refusal of the draft."""
    arguments = Arguments(table, draft)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        text = _plain_dashes(word, draft)
        if word.quoted and not text.startswith("--") or not re.match(r"-{1,2}[A-Za-z]", text):
            if text != "--":
                arguments.positional.append(word)
            continue
        _one(text, word, rest, arguments)
    return arguments


def _plain_dashes(word: Word, draft: Draft) -> str:
    match = re.match("[\u2010-\u2015\u2212]+(?=[A-Za-z])|-[\u2010-\u2015\u2212](?=[A-Za-z])", word.text)
    if match is None:
        return word.text
    plain = "--" + word.text[match.end() :]
    draft.note("info", "typography", f"{word.text} was read as {plain}", word.where)
    return plain


def _one(text: str, word: Word, rest: list[Word], arguments: Arguments) -> None:
    name, equals, inline = text.partition("=")
    flag, name, path = _look_up(name, arguments.table, arguments.draft, word.where)
    if flag is None:
        _unknown(name, equals, word, rest, arguments)
        return
    _status(flag, name, word, arguments.draft)
    glued = "" if text.startswith("--") or text.partition("=")[0].partition(".")[0] == name else text[len(name) :]
    if equals or glued:
        value_words = [Word(glued or inline, word.where, word.variables)]
    else:
        value_words = _take(flag, rest)
    if value_words and not value_words[0].text and not flag.size and flag.kind in ("int", "float"):
        arguments.draft.note("warning", "empty-value", f"{name} is given nothing as its value: left out", word.where)
        return
    value, variables = read_value(flag.kind, name, path, value_words, word, arguments.draft)
    if value is not None or variables:
        arguments.add(Argument(flag, name, value, word.where, variables))


def _look_up(name: str, table: Table, draft: Draft, where: Where) -> tuple[Flag | None, str, tuple[str, ...]]:
    """(flag, name as known, path inside a JSON argument)."""
    plain = name.replace("_", "-") if table.underscores and name.startswith("--") else name
    base, *path = (name if not table.dotted else plain).split(".")
    if table.dotted and table.underscores:
        path = name.split(".")[1:]
    if path and table.dotted and base in table.names:
        return table.names[base], base, tuple(path)
    if plain in table.names:
        return table.names[plain], plain, ()
    if plain[:2] in table.names and plain[1] != "-":
        return table.names[plain[:2]], plain[:2], ()
    found = sorted(known for known in table.names if known.startswith(plain)) if plain.startswith("--") else []
    flags = {id(table.names[known]) for known in found}
    if table.prefixes and len(flags) == 1:
        draft.note("info", "prefix", f"{name} is short for {found[0]}", where)
        return table.names[found[0]], found[0], ()
    if table.prefixes and len(flags) > 1 and len(plain) > 3:
        draft.refuse(f"{name} is ambiguous: {', '.join(found[:6])}", found[:6], where)
    spelled = "--" + name.lstrip("-").replace("_", "-").lower()
    if spelled in table.names:
        message = f"{name} is spelled {spelled}; the engine's parser takes only that"
        draft.note("warning", "spelling", message, where)
        return table.names[spelled], spelled, ()
    return None, name, ()


def _unknown(name: str, equals: str, word: Word, rest: list[Word], arguments: Arguments) -> None:
    """Kept as a note; a word after it that is no flag is its value."""
    value = ""
    if not equals and rest and not re.match(r"-{1,2}[A-Za-z]", rest[0].text):
        value = f" {rest.pop(0).text}"
    message = f"unknown flag {word.text}{value}: ignored{nearest(name, arguments.table.names)}"
    arguments.draft.note("warning", "unknown-flag", message, word.where)


def _status(flag: Flag, name: str, word: Word, draft: Draft) -> None:
    if flag.status:
        hint = f"; {flag.hint}" if flag.hint else ""
        draft.note("warning", flag.status, f"{name} is {flag.status}{hint}", word.where)


def _take(flag: Flag, rest: list[Word]) -> list[Word]:
    """The value words after a flag."""

    def is_value(word: Word) -> bool:
        return word.quoted or not re.match(r"-{1,2}[A-Za-z\u2010-\u2015]", word.text)

    if flag.kind in ("switch", "boolean"):
        truth = rest and rest[0].text.lower() in ("true", "false")
        return [rest.pop(0)] if truth else []
    if flag.kind == "list":
        taken = []
        while rest and is_value(rest[0]):
            taken.append(rest.pop(0))
        return taken
    return [rest.pop(0)] if rest and is_value(rest[0]) else []


__all__ = ["Argument", "Arguments", "Flag", "FlagKind", "Table", "open_name", "parse", "parse_table"]
