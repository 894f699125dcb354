"""GBNF as llama.cpp reads it: the text of a grammar as rules over characters. EBNF of other engines is the same.

It has no lexer: `lark.py` writes the rules for the grammar library, which has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MOST_NESTED = 50
"""Groups inside groups."""
MOST_TIMES = 100_000
TOP, SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_BEGINS_RULE = re.compile(_NAME.pattern + r"[ \t]*::=")
_TIMES = re.compile(r"\{[ \t]*(\d*)[ \t]*(,?)[ \t]*(\d*)[ \t]*\}")
_TOKEN = re.compile(r"<\[(\d{1,9})\]>|<([^<>\s]{1,100})>")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "/": "/", "^": "^"}
_HEX = {"x": 2, "u": 4, "U": 8}


class GbnfError(Exception):
    """The text is no grammar; the message says where and why."""


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """One of some characters: sorted ranges of code points, apart from each other."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """An added token, by its id or its text."""

    id: int | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    name: str


@dataclass(frozen=True, slots=True)
class Repeat:
    node: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Either:
    """One of some sequences."""

    sequences: tuple[Sequence, ...]


Node = CharacterSet | Token | Rule | Repeat | Either
Sequence = tuple[Node, ...]


def characters(ranges: list[tuple[int, int]], *, negated: bool = False) -> CharacterSet:
    """Of ranges in any order. Surrogates are no characters."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    if negated:
        starts, ends = [0, *(last + 1 for _, last in merged)], [*(first - 1 for first, _ in merged), TOP]
        merged = [pair for pair in zip(starts, ends, strict=True) if pair[0] <= pair[1]]
    below, above = SURROGATES[0] - 1, SURROGATES[1] + 1
    parts = [(first, min(last, below)) for first, last in merged] + [
        (max(first, above), last) for first, last in merged
    ]
    return CharacterSet(tuple(sorted(part for part in parts if part[0] <= part[1])))


def rules_of(text: str) -> dict[str, Either]:
    """By name, in their order. GbnfError: it is no GBNF."""
    reader = _Reader(text)
    rules: dict[str, Either] = {}
    reader.space(lines=True)
    while reader.left:
        name, rule = reader.rule()
        if name in rules:
            raise reader.wrong(f"the rule {name!r} stands there twice")
        rules[name] = rule
        reader.space(lines=True)
    return rules


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    @property
    def left(self) -> bool:
        return self._at < len(self._text)

    def wrong(self, why: str) -> GbnfError:
        line = self._text.count("\n", 0, self._at) + 1
        return GbnfError(f"line {line}, before {self._text[self._at : self._at + 20]!r}: {why}")

    def _next(self, word: str) -> bool:
        found = self._text.startswith(word, self._at)
        self._at += len(word) if found else 0
        return found

    def space(self, *, lines: bool) -> None:
        """White space and comments; `lines`: also ends of lines."""
        pattern = r"(?:[ \t\r\n]|#[^\r\n]*)*" if lines else r"(?:[ \t]|#[^\r\n]*)*"
        found = re.compile(pattern).match(self._text, self._at)
        self._at = found.end() if found else self._at

    def rule(self) -> tuple[str, Either]:
        """`name ::= ...`"""
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self.wrong("the name of a rule is needed")
        self._at = found.end()
        self.space(lines=False)
        if not self._next("::="):
            raise self.wrong(f"'::=' is needed after {found[0]!r}")
        self.space(lines=True)
        made = self._either(0)
        if self.left and self._text[self._at] not in "\r\n" and not _BEGINS_RULE.match(self._text, self._at):
            raise self.wrong("a literal, a class, a name or the end of the line is needed")
        return found[0], made

    def _either(self, depth: int) -> Either:
        if depth > MOST_NESTED:
            raise self.wrong(f"groups are nested deeper than {MOST_NESTED}")
        made = [self._sequence(depth)]
        while self._next("|"):
            self.space(lines=True)
            made.append(self._sequence(depth))
        return Either(tuple(made))

    def _sequence(self, depth: int) -> Sequence:
        """Inside a group lines may end anywhere."""
        made: list[Node] = []
        while (begun := self._begun(depth)) is not None:
            nodes = begun()
            self.space(lines=depth > 0)
            while (times := self._times()) is not None:
                nodes = [Repeat(nodes[0], *times)]
                self.space(lines=depth > 0)
            made += nodes
        return tuple(made)

    def _begun(self, depth: int) -> Callable[[], list[Node]] | None:
        """What reads the element that begins here."""
        first = self._text[self._at : self._at + 1]
        if first in ('"', "[", ".", "<"):
            return {'"': self._literal, "[": self._class, ".": self._any, "<": self._token}[first]
        if first == "(":
            return lambda: self._group(depth + 1)
        if _BEGINS_RULE.match(self._text, self._at):  # after an alternative without anything, at the end of a line
            return None
        return self._name if _NAME.match(self._text, self._at) else None

    def _literal(self) -> list[Node]:
        """A repetition after it repeats all of it."""
        self._at += 1
        made: list[Node] = []
        while not self._next('"'):
            code = self._character("the literal")
            made.append(characters([(code, code)]))
        return [Either((tuple(made),))] if len(made) != 1 else made

    def _class(self) -> list[Node]:
        self._at += 1
        negated, ranges = self._next("^"), list[tuple[int, int]]()
        while not self._next("]"):
            first = last = self._character("the class")
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character("the class")
            if last < first:
                raise self.wrong("a range of the class ends before it begins")
            ranges.append((first, last))
        found = characters(ranges, negated=negated)
        if not found.ranges:
            raise self.wrong("no character is of the class")
        return [found]

    def _any(self) -> list[Node]:
        self._at += 1
        return [characters([(0, TOP)])]

    def _token(self) -> list[Node]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self.wrong("a token is <[id]> or <text>")
        self._at = found.end()
        return [Token(int(found[1])) if found[1] else Token(None, found[0])]

    def _group(self, depth: int) -> list[Node]:
        self._at += 1
        self.space(lines=True)
        made = self._either(depth)
        if not self._next(")"):
            raise self.wrong("')' is needed")
        return [made]

    def _name(self) -> list[Node]:
        found = _NAME.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return [Rule(found[0])]

    def _times(self) -> tuple[int, int | None] | None:
        """How often the element before may come; None: nothing says so."""
        for mark, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._next(mark):
                return times
        if not self._text.startswith("{", self._at):
            return None
        found = _TIMES.match(self._text, self._at)
        if found is None or not (found[1] or found[3]):
            raise self.wrong("a repetition is {n}, {n,}, {n,m} or {,m}")
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else None if found[2] else least
        if max(least, most or 0) > MOST_TIMES or (most is not None and most < least):
            raise self.wrong(f"a repetition goes up, to {MOST_TIMES} at most")
        self._at = found.end()
        return least, most

    def _character(self, of: str) -> int:
        """The code point of a character or of an escape."""
        if not self.left:
            raise self.wrong(f"{of} does not end")
        first = self._text[self._at]
        self._at += 1
        if first != "\\":
            return ord(first)
        mark = self._text[self._at : self._at + 1]
        if mark in _HEX:
            digits = self._text[self._at + 1 : self._at + 1 + _HEX[mark]]
            if not re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[mark]}}}", digits):
                raise self.wrong(f"\\{mark} needs {_HEX[mark]} hexadecimal digits")
            self._at += 1 + _HEX[mark]
            code = int(digits, 16)
            if code > TOP or SURROGATES[0] <= code <= SURROGATES[1]:
                raise self.wrong(f"\\{mark}{digits} is no character")
            return code
        if mark not in _PLAIN:
            raise self.wrong(f"\\{mark} is no escape")
        self._at += 1
        return ord(_PLAIN[mark])
