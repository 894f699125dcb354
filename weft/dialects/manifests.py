"""Commands in Kubernetes and compose YAML: command, args, image and env of every container. Knows no engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from weft.dialects.base import Note, Where, Word
from weft.dialects.shell import lex
from weft.dialects.shell_words import Piece, RawWord

_LOOKS = re.compile(r"(?m)^[ \t]*(?:-[ \t]+)?(?:command|args|entrypoint)[ \t]*:")
_TEMPLATE_LINE = re.compile(r"(?m)^[ \t]*\{\{-?\s*(?:if|else|end|with|range|include|toYaml|/\*)[^\n]*$")
_TEMPLATE = re.compile(r"\{\{-?\s*\.?([\w.]+)[^{}\n]*\}\}")
_EXPANDS = re.compile(r"\$\(([\w.]+)\)|\$\{([^{}]+)\}|\$([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Container:
    """Words of one container, image first, and its environment."""

    words: tuple[RawWord, ...]
    environment: Mapping[str, Word]
    name: str = ""
    notes: tuple[Note, ...] = field(default=())
    image: int = 0
    """How many of the words are its image."""


def manifest_commands(text: str) -> list[Container]:
    """Every container with arguments; empty when the text is no such YAML."""
    if not _LOOKS.search(text):
        return []
    plain = _TEMPLATE.sub(r"$(\1)", _TEMPLATE_LINE.sub("", text))
    try:
        roots = list(yaml.compose_all(plain, yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return []
    return [found for root in roots if root is not None for found in _containers(root, "")]


def _containers(node: yaml.Node, name: str) -> Iterator[Container]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _containers(item, name)
    if not isinstance(node, yaml.MappingNode):
        return
    keys = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    name = _name(keys) or name
    if keys.keys() & {"command", "args", "entrypoint"}:
        yield _container(keys, name)
    for key, value in keys.items():
        if key not in ("command", "args", "entrypoint", "env", "environment"):
            yield from _containers(
                value, key if isinstance(value, yaml.MappingNode) and "image" in _keys(value) else name
            )


def _keys(node: yaml.MappingNode) -> set[str]:
    return {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}


def _name(keys: Mapping[str, yaml.Node]) -> str:
    """metadata.name, or a container's own name."""
    node = keys.get("name")
    metadata = keys.get("metadata")
    if isinstance(metadata, yaml.MappingNode):
        node = {key.value: value for key, value in metadata.value if isinstance(key, yaml.ScalarNode)}.get("name")
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def _container(keys: Mapping[str, yaml.Node], name: str) -> Container:
    notes: list[Note] = []
    words = list(_plain(keys["image"])) if "image" in keys else []
    image = len(words)
    for key in ("entrypoint", "command", "args"):
        if key in keys:
            words += _words(keys[key], notes)
    environment = dict(_environment(keys.get("env") or keys.get("environment")))
    return Container(tuple(words), environment, name, tuple(notes), image)


def _words(node: yaml.Node, notes: list[Note]) -> list[RawWord]:
    """A list is words as they are; a scalar is a line of shell."""
    if isinstance(node, yaml.SequenceNode):
        words = [word for item in node.value for word in _plain(item)]
        return [part for word in words for part in _split(word, notes)]
    if isinstance(node, yaml.ScalarNode):
        found = [word for command in lex(node.value) for word in command.words]
        return [_moved(word, node.start_mark.line) for word in found]
    return []


def _moved(word: RawWord, line: int) -> RawWord:
    return RawWord(Where(word.where.line + line, word.where.column, word.where.text), word.pieces, word.quoted)


def _plain(node: yaml.Node) -> Iterator[RawWord]:
    if isinstance(node, yaml.ScalarNode):
        where = Where(node.start_mark.line + 1, node.start_mark.column + 1, node.value)
        yield RawWord(where, list(_pieces(node.value)), quoted=node.style in ("'", '"') and not node.value)


def _split(word: RawWord, notes: list[Note]) -> Iterator[RawWord]:
    """An item '--tp 8' is one word to the engine; it was meant as two."""
    text = word.where.text
    match = re.fullmatch(r"(--?[\w-]+)[ \t]+([^\s'\"{]+)", text)
    if match is None:
        yield word
        return
    message = f"{text!r} is one list item, which an engine takes for one unknown word; read as flag and value"
    notes.append(Note("warning", "one-item", message, word.where))
    yield RawWord(word.where, [Piece("text", match[1])])
    yield RawWord(word.where, list(_pieces(match[2])))


def _pieces(text: str) -> Iterator[Piece]:
    """Kubernetes fills in $(NAME), compose ${NAME}; a script inside keeps its own variables for its own reading."""
    if re.search(r"\s", text.strip()):
        yield Piece("text", text)
        return
    at = 0
    for match in _EXPANDS.finditer(text):
        if match.start() > at:
            yield Piece("text", text[at : match.start()])
        yield Piece("variable", match[1] or match[2] or match[3], quoted=True)
        at = match.end()
    if at < len(text) or not text:
        yield Piece("text", text[at:])


def _environment(node: yaml.Node | None) -> Iterator[tuple[str, Word]]:
    """Lists of name/value pairs, lists of NAME=value, or a mapping."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.MappingNode):
                pair = {key.value: value for key, value in item.value if isinstance(key, yaml.ScalarNode)}
                if isinstance(pair.get("name"), yaml.ScalarNode) and isinstance(pair.get("value"), yaml.ScalarNode):
                    yield pair["name"].value, _value(pair["value"])
            elif isinstance(item, yaml.ScalarNode) and "=" in item.value:
                name, _, value = item.value.partition("=")
                yield name, Word(value, Where(item.start_mark.line + 1, item.start_mark.column + 1, item.value))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
                yield key.value, _value(value)


def _value(node: yaml.ScalarNode) -> Word:
    return Word(node.value, Where(node.start_mark.line + 1, node.start_mark.column + 1, node.value))
