"""JSON as documentation pages show it: comments, `...`, missing and trailing commas, fragments without outer braces.

Everything mended is a note with its place; what cannot be read is a problem with line and column.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable

from weft.tools.dialects.base import Diagnostic, Level, Where
from weft.tools.dialects.sources.documents.tree import Node, Tree, TreeEntry, scalar

_SPACE = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))+", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"|\'((?:[^\'\\\n]|\\.)*)\'', re.DOTALL)
_WORD = re.compile(r"(?:\$\{[^{}\n]*\}|\{\{[^{}\n]*\}\}|<[^<>\n]*>|[^\s,:=\[\]{}\"'#])+")
_ELIDED = re.compile(r"\.{2,}|\u2026|[\"'](?:\.{3,}|\u2026)[\"'](?!\s*:)")
_DEPTH = 100


class Unreadable(Exception):
    """The text cannot be read on from here."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


def read_json(text: str, place: Callable[[int, int], Where]) -> Tree:
    """The tree of a text; `place(line, column)` gives the place of a position, both counted from 1."""
    reader = _Reader(text, place)
    tree = Tree(None, reader.notes)
    try:
        tree.root = reader.document()
    except Unreadable as error:
        tree.problem = Diagnostic("error", "syntax", f"not readable as JSON: {error}", reader.where(error.at))
    return tree


class _Reader:
    def __init__(self, text: str, place: Callable[[int, int], Where]) -> None:
        self.text, self.place, self.at, self.depth = text, place, 0, 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.notes: list[Diagnostic] = []

    def where(self, at: int) -> Where:
        line = bisect_right(self.starts, at)
        return self.place(line, at - self.starts[line - 1] + 1)

    def note(self, level: Level, code: str, message: str, at: int) -> None:
        self.notes.append(Diagnostic(level, code, message, self.where(at)))

    def document(self) -> Node:
        self.space()
        if self.peek() == "{" or self.peek() == "[":
            root = self.value()
            self.rest()
            return root
        self.note("info", "fragment", "a fragment without its outer braces", self.at)
        root = Node(self.where(self.at), entries={})
        self.members(root, "")
        return root

    def rest(self) -> None:
        """After the document: a comma or braces of what a fragment was cut from."""
        self.space()
        left = self.text[self.at :]
        if left.strip(" \t\n,;]}"):
            raise Unreadable(f"{self.shown()} stands behind the end of the document", self.at)

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        if match:
            self.at = match.end()

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def shown(self) -> str:
        word = re.compile(r"[^\s,:{}\[\]]+|.").match(self.text, self.at)
        return repr(word[0][:40]) if word else "the end"

    def elided(self, node: Node) -> bool:
        match = _ELIDED.match(self.text, self.at)
        if match is None:
            return False
        node.elided = True
        self.note("info", "elided", "'...' stands for something left out", self.at)
        self.at = match.end()
        return True

    def members(self, node: Node, closing: str) -> None:
        """Members up to the closing brace; a fragment's end with the text, braces it was cut from included."""
        start, comma, end = self.at, True, self.at
        while True:
            self.space()
            char = self.peek()
            if char == closing and closing:
                self.trailing(comma, node, end)
                self.at += 1
                return
            if not char:
                if closing and not any(note.code == "elided" for note in self.notes):
                    raise Unreadable("this { is never closed", start - 1)
                if closing:
                    self.note(
                        "info", "fragment", "this { is never closed; it ends with the part that is shown", start - 1
                    )
                return
            if char == ",":
                self.at, comma = self.at + 1, True
            elif char in "}]" and not closing:
                self.at += 1
            elif not self.elided(node):
                self.separated(comma, end, node)
                node.add(self.member())
                comma, end = False, self.at

    def separated(self, comma: bool, end: int, node: Node) -> None:
        if not comma and not (node.elided and self.notes and self.notes[-1].code == "elided"):
            self.note("warning", "missing-comma", "a comma is missing here; read as meant", end)

    def trailing(self, comma: bool, node: Node, end: int) -> None:
        if comma and (node.entries or node.items) and not node.elided:
            self.note("warning", "trailing-comma", "a comma too many, which strict JSON refuses; read as meant", end)

    def member(self) -> TreeEntry:
        start = self.at
        key = self.word()
        if key is None:
            raise Unreadable(f"a key is wanted, not {self.shown()}", self.at)
        self.space()
        if self.peek() not in (":", "="):
            raise Unreadable(f"':' is wanted behind {key[0]!r}, not {self.shown()}", self.at)
        self.at += 1
        self.space()
        value = self.value()
        return TreeEntry(key[0], self.where(start), value)

    def word(self) -> tuple[str, bool] | None:
        """A string or bare word, and whether it was quoted."""
        if self.peek() and self.peek() in "\"'":
            match = _STRING.match(self.text, self.at)
            if match is None:
                raise Unreadable("this string is never closed", self.at)
            self.at = match.end()
            return _unescaped(match[1] if match[1] is not None else match[2]), True
        match = _WORD.match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[0], False

    def value(self) -> Node:
        where, char = self.where(self.at), self.peek()
        if char == "{" and not _WORD.match(self.text, self.at):
            self.enter()
            node = Node(where, entries={})
            self.members(node, "}")
            self.depth -= 1
            return node
        if char == "[":
            self.enter()
            node = Node(where, items=[])
            self.elements(node)
            self.depth -= 1
            return node
        node = Node(where)
        if self.elided(node):
            node.scalar = "..."
            return node
        word = self.word()
        if word is None:
            raise Unreadable(f"a value is wanted, not {self.shown()}", self.at)
        node.scalar = scalar(*word)
        return node

    def enter(self) -> None:
        self.at += 1
        self.depth += 1
        if self.depth > _DEPTH:
            raise Unreadable(f"nested more than {_DEPTH} deep", self.at - 1)

    def elements(self, node: Node) -> None:
        start, comma, end = self.at, True, self.at
        assert node.items is not None
        while True:
            self.space()
            char = self.peek()
            if char == "]":
                self.trailing(comma, node, end)
                self.at += 1
                return
            if not char:
                raise Unreadable("this [ is never closed", start - 1)
            if char == ",":
                self.at, comma = self.at + 1, True
            elif not self.elided(node):
                self.separated(comma, end, node)
                node.items.append(self.value())
                comma, end = False, self.at


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
