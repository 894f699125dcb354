"""The words of an engine's command, gathered from the values of a file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from weft.dialects.base import Diagnostic, Document, Where, Word
from weft.dialects.sources.deployment import copies_note
from weft.dialects.sources.documents.tree import Node, variables_in

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python", "-m", "sglang.launch_server"),
    "trtllm": ("trtllm-serve",),
}


@dataclass
class ChartCommand:
    """Words of one engine, gathered from a file's values."""

    name: str
    where: Where
    dialect: str = "vllm"
    nodes: int | None = None
    words: list[Word] = field(default_factory=list)
    notes: list[Diagnostic] = field(default_factory=list)

    def flag(self, name: str, node: Node | None) -> None:
        """A flag with the value of a node, if there is one."""
        if node is None or node.scalar is None and node.entries is None and node.items is None:
            return
        if isinstance(node.scalar, bool):
            self.words.append(Word(name if node.scalar else "--no-" + name[2:], node.where))
            return
        self.words.append(Word(name, node.where))
        if node.entries is not None:
            self.words.append(Word(json.dumps(node.plain(), default=str), node.where, quoted=True))
        for item in node.items if node.items is not None else () if node.entries is not None else (node,):
            self.words.append(Word(str(item.scalar), item.where, variables_in(item.scalar), quoted=True))

    def arguments(self, node: Node | None) -> None:
        """Words of a list, or of one line of shell."""
        if node is None:
            return
        if node.items is None:
            words = _split(str(node.scalar)) if isinstance(node.scalar, str) else []
            self.words += [Word(word, node.where, variables_in(word)) for word in words]
            return
        for item in node.items:
            text = str(item.scalar)
            parts = _split(text) if re.match(r"--?[\w-]+[ \t]", text) else [text]
            for part in parts:
                self.words.append(Word(part, item.where, variables_in(part), quoted=not part.startswith("-")))

    def copies(self, node: Node | None) -> None:
        """So many engines of this kind, which do not know of each other."""
        count = node.scalar if node is not None else None
        if node is not None and type(count) is int and count > 1:
            self.notes.append(copies_note(count, node.where))

    def document(self, text: str) -> Document:
        """As a document of `text`."""
        program = tuple(Word(word, self.where) for word in PROGRAMS[self.dialect])
        return Document(
            kind="command",
            text=text,
            name=self.name,
            line=self.where.line,
            program=program,
            words=tuple(self.words),
            notes=tuple(self.notes),
            dialect=self.dialect,
            nodes=self.nodes,
        )


def walk(node: Node) -> Iterator[Node]:
    """Every mapping of a document."""
    if node.entries is not None:
        yield node
    for inner in node.inside():
        yield from walk(inner)


def text_of(node: Node | None) -> str:
    """A scalar that is a text, else nothing."""
    return str(node.scalar) if node is not None and isinstance(node.scalar, str) else ""


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
