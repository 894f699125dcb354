"""`helm install` and `upgrade`: a chart's values, from its files and the flags after them, and the engines in them.

What a chart makes of its values is known for the shapes that `charts` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from weft.dialects.base import Diagnostic, Document, File, Where, Word
from weft.dialects.sources.documents.documents import trees
from weft.dialects.sources.documents.tree import Node, TreeEntry, scalar
from weft.dialects.sources.kubernetes.charts import engines_of

_COMMANDS = ("install", "upgrade", "template")
_FILES = ("-f", "--values")
_SETS = ("--set", "--set-string", "--set-json", "--set-literal", "--set-file")
_VALUED = {
    *_FILES,
    *_SETS,
    *("-n", "--namespace", "--version", "--repo", "--timeout", "--kube-context", "--kubeconfig", "--username"),
    *("--password", "--description", "--post-renderer", "--post-renderer-args", "--ca-file", "--cert-file"),
    *("--key-file", "--keyring", "--history-max", "--output", "-o", "--labels", "-l", "--name-template"),
    *("--kube-apiserver", "--kube-token", "--kube-as-user", "--kube-as-group", "--kube-ca-file", "--burst-limit"),
    *("--registry-config", "--repository-cache", "--repository-config", "--show-only", "-s", "--api-versions", "-a"),
}
"""Flags of helm that take a value."""
_SWITCHED = ("--generate-name", "-g")
_STEP = re.compile(r"((?:[^.\[\\]|\\.)+)|\.|\[(\d{1,4})\]")
_TOKEN = re.compile(r"\\.|.", re.DOTALL)
_MOST_ITEMS = 1000

ReadFile = Callable[[str], str | None]
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """One value of the command: where it goes, and what it is."""

    path: Path
    value: Node
    shown: str


def helm(found: Sequence[Document], read_file: ReadFile | None) -> list[Document]:
    """The engines of every helm command among the commands of a text; empty where no value of one names an engine."""
    made: list[Document] = []
    for document in found:
        words = [word.text for word in document.words]
        at = next((at for at, word in enumerate(words[:-1]) if re.fullmatch(r"(?:.*/)?helm3?", word)), None)
        if document.dialect or at is None:
            continue
        flags, operands = _parsed(document.words[at + 1 :])
        if operands and operands[0].text in _COMMANDS:
            made += _Release(document, flags, operands[1:], read_file).documents()
    return made


def _parsed(words: Sequence[Word]) -> tuple[list[tuple[str, Word]], list[Word]]:
    """Flags with their values, and the words that belong to none."""
    flags, operands, name = [], [], ""
    for word in words:
        if name:
            flags.append((name, word))
            name = ""
            continue
        flag, equals, value = word.text.partition("=")
        if not word.text.startswith("-"):
            operands.append(word)
        elif equals:
            flags.append((flag, replace(word, text=value)))
        elif flag in _VALUED:
            name = flag
        elif flag in _SWITCHED:
            flags.append((flag, word))
    return flags, operands


class _Release:
    """One helm command: its values, in the order in which helm takes them."""

    def __init__(
        self,
        document: Document,
        flags: Sequence[tuple[str, Word]],
        operands: Sequence[Word],
        read_file: ReadFile | None,
    ) -> None:
        self.document, self.read_file = document, read_file
        self.notes: list[Diagnostic] = []
        self.given: list[_Given] = []
        self.base = Node(document.words[0].where, entries={})
        named = not any(name in _SWITCHED for name, _ in flags)
        for chart in operands[int(named) : int(named) + 1]:
            self._chart(chart)
        for name, word in flags:
            if name in _FILES:
                for path in word.text.split(","):
                    self._file(path, word)
        for name, word in flags:
            if name in _SETS:
                self._set(name, word)

    def documents(self) -> list[Document]:
        """Engines of all values together, with a note for each value of the command that none of them depends on."""
        found = self._engines(self.given)
        if not found:
            return []
        plain = [_essence(each) for each in found]
        for at, given in enumerate(self.given):
            if [_essence(each) for each in self._engines(self.given[:at] + self.given[at + 1 :])] == plain:
                message = f"{given.shown}: what is read of the chart does not depend on it"
                self.notes.append(Diagnostic("info", "chart-value", message, given.value.where))
        first = replace(found[0], notes=(*self.document.notes, *self.notes, *found[0].notes))
        return [first, *found[1:]]

    def _engines(self, given: Sequence[_Given]) -> list[Document]:
        root = deepcopy(self.base)
        for each in given:
            _put(root, each.path, deepcopy(each.value))
        return engines_of([root], self.document.text)

    def _chart(self, word: Word) -> None:
        """The values that a chart in a folder comes with."""
        text = self.read_file(f"{word.text.rstrip('/')}/values.yaml") if self.read_file is not None else None
        if text is not None:
            self._merge(text, 1, word, outside=True)
        else:
            message = f"the chart {word.text} is not here: its own values are not known, only what stands here"
            self.notes.append(Diagnostic("info", "chart-elsewhere", message, word.where))

    def _file(self, path: str, word: Word) -> None:
        held: File | None = self.document.files.get(path)
        text = held.text if held is not None else self.read_file(path) if self.read_file is not None else None
        if text is None:
            message = f"the values file {path} is not here: what it says is not known"
            self.notes.append(Diagnostic("warning", "file-elsewhere", message, word.where))
        else:
            self._merge(text, held.line if held is not None else 1, word, outside=held is None)

    def _merge(self, text: str, line: int, word: Word, outside: bool) -> None:
        for tree in trees(text, line)[:1]:
            self.notes += [replace(note, where=word.where) if outside else note for note in tree.notes]
            if tree.problem is not None:
                self.notes.append(replace(tree.problem, where=word.where) if outside else tree.problem)
            elif tree.root is not None and tree.root.entries is not None:
                if outside:
                    _move(tree.root, word.where, set())
                _merged(self.base, tree.root)

    def _set(self, name: str, word: Word) -> None:
        """`a.b[0].c=1,d=2`: values of --set; whole texts of --set-literal, JSON, and files' contents."""
        parts = [_literal(word.text)] if name in ("--set-literal", "--set-json") else list(_parts(word.text))
        for key, value in parts:
            path = _path(key)
            node = self._value(name, value, word)
            if not path or node is None:
                self.notes.append(Diagnostic("warning", "unknown-value", f"{name} {word.text}: not read", word.where))
            else:
                self.given.append(_Given(path, node, f"{name} {key}={value}"))

    def _value(self, name: str, value: str, word: Word) -> Node | None:
        where = Where(word.where.line, word.where.column, word.text)
        if name == "--set-json":
            return _json(value, where)
        if name == "--set-file":
            text = self.read_file(value) if self.read_file is not None else None
            return Node(where, scalar=text) if text is not None else None
        if name == "--set-literal":
            return Node(where, scalar=value)
        if value.startswith("{") and value.endswith("}"):
            items = [item.strip() for item in value[1:-1].split(",") if item.strip()]
            return Node(where, items=[Node(where, scalar=scalar(item, name == "--set-string")) for item in items])
        return Node(where, scalar=scalar(_plain(value), name == "--set-string"))


def _essence(document: Document) -> tuple[object, ...]:
    words = [(word.text, word.variables) for word in document.words]
    return document.dialect, document.name, words, document.nodes, [note.message for note in document.notes]


def _literal(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """`a=1,b=2`; a comma belongs to the value after a backslash and between braces."""
    part, depth = "", 0
    for token in _TOKEN.findall(text):
        depth = max(0, depth + {"{": 1, "}": -1}.get(token, 0))
        if token != "," or depth:
            part += token
            continue
        yield _literal(part)
        part = ""
    if part:
        yield _literal(part)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _path(key: str) -> Path:
    """Keys and places in lists of `a.b[0].c`; empty for what is none."""
    steps: list[str | int] = []
    at = 0
    while at < len(key):
        match = _STEP.match(key, at)
        if match is None:
            return ()
        if match[1] is not None:
            steps.append(_plain(match[1]))
        elif match[2] is not None:
            steps.append(int(match[2]))
        at = match.end()
    usable = bool(steps) and isinstance(steps[0], str)
    return tuple(steps) if usable and all(isinstance(step, str) or step < _MOST_ITEMS for step in steps) else ()


def _put(node: Node, path: Path, value: Node) -> None:
    """Sets what stands at a path, making mappings and lists on the way; null takes a key away, as in helm."""
    for at, step in enumerate(path):
        last = at == len(path) - 1
        if isinstance(step, str):
            node.scalar, node.items = None, None
            node.entries = {} if node.entries is None else node.entries
            if last and value.entries is None and value.items is None and value.scalar is None:
                node.entries.pop(step, None)
                return
            before = node.entries.get(step)
            inner = value if last else before.node if before is not None else Node(value.where)
            node.entries[step] = TreeEntry(step, value.where, inner)
        else:
            node.scalar, node.entries = None, None
            node.items = [] if node.items is None else node.items
            node.items += [Node(value.where) for _ in range(step + 1 - len(node.items))]
            inner = value if last else node.items[step]
            node.items[step] = inner
        node = inner


def _merged(base: Node, over: Node) -> None:
    """A later file over an earlier one: mappings key by key, anything else as a whole."""
    assert base.entries is not None and over.entries is not None
    for key, entry in over.entries.items():
        before = base.entries.get(key)
        if before is not None and before.node.entries is not None and entry.node.entries is not None:
            _merged(before.node, entry.node)
        else:
            base.entries[key] = entry


def _move(node: Node, where: Where, seen: set[int]) -> None:
    """Places in a file that is not part of the text become the place that names it; each node once, for aliases."""
    if id(node) in seen:
        return
    seen.add(id(node))
    node.where = where
    for entry in (node.entries or {}).values():
        entry.where = where
    for inner in node.inside():
        _move(inner, where, seen)


def _json(text: str, where: Where) -> Node | None:
    try:
        return _node(json.loads(text), where)
    except (ValueError, RecursionError):
        return None


def _node(value: object, where: Where) -> Node:
    if isinstance(value, dict):
        inner = {str(key): _node(item, where) for key, item in value.items()}
        return Node(where, entries={key: TreeEntry(key, where, node) for key, node in inner.items()})
    if isinstance(value, list):
        return Node(where, items=[_node(item, where) for item in value])
    return Node(where, scalar=value)
