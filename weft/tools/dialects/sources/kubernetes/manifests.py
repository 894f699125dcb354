"""Commands in Kubernetes and compose YAML: command, args, image and env of every container, and files that it holds.

What a manifest says around a container (size of its group, nodes, variables) comes with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

from weft.tools.dialects.base import Diagnostic, File, Where, Word
from weft.tools.dialects.sizes import whole_number
from weft.tools.dialects.sources.deployment import copies_note
from weft.tools.dialects.sources.documents.aliases import checked
from weft.tools.dialects.sources.shell.lexer import lex
from weft.tools.dialects.sources.shell.words import RawWord, WordPart, templated

_LOOKS = re.compile(
    r"(?m)(?:^[ \t]*(?:-[ \t]+)?|[{,][ \t]*)\"?(?:commands?|args|entrypoint|run(?:cmd)?|script)\"?[ \t]*:"
    r"|^[ \t]*-[ \t]+[\"']?--[a-z]"
)
_STARTS = ("command", "args", "entrypoint")
_LINES = ("commands", "script", "runcmd", "before_script")
_BESIDE = ("env", "envs", "environment")
_TEMPLATE_LINE = re.compile(r"(?m)^[ \t]*\{\{-?\s*(?:if|else|end|with|range|include|toYaml|/\*)[^\n]*$")
_FENCED = re.compile(r"(?ms)^[ \t]*```[ \t]*(?:yaml|yml|json)?[ \t]*\n(.*?)^[ \t]*```[ \t]*$")
_EXPANDS = re.compile(r"\$\(([\w.]+)\)|\$\{([^{}]+)\}|\$([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Container:
    """Words of one container, image first, and its environment."""

    words: tuple[RawWord, ...]
    environment: Mapping[str, Word]
    name: str = ""
    notes: tuple[Diagnostic, ...] = field(default=())
    image: int = 0
    """How many of the words are its image."""
    nodes: int | None = None
    """Nodes that the manifest gives to it."""


@dataclass(frozen=True, slots=True)
class _Around:
    """What the mappings around a container say."""

    name: str = ""
    nodes: int | None = None
    variables: Mapping[str, Word] = field(default_factory=dict)
    copies: tuple[Diagnostic, ...] = ()


def manifest_commands(text: str) -> list[Container]:
    """Every container with arguments; empty when the text is no such YAML."""
    if not _LOOKS.search(text):
        return []
    roots = _roots(text)
    found = [each for root in roots for each in _containers(root, _Around())]
    return found or [each for root in roots for each in _flag_lists(root, None)]


def manifest_files(text: str) -> dict[str, File]:
    """Files that the manifest's ConfigMaps hold, by name."""
    found: dict[str, File] = {}
    if "ConfigMap" not in text:
        return found
    for root in _roots(text):
        keys = _mapping(root)
        if _scalar(keys.get("kind")) != "ConfigMap":
            continue
        for name, value in _mapping(keys.get("data")).items():
            if isinstance(value, yaml.ScalarNode):
                below = value.style in ("|", ">")
                found[name] = File(value.value, value.start_mark.line + 1 + below)
    return found


def _roots(text: str) -> list[yaml.Node]:
    """The documents of a text, or of the YAML and JSON that a page shows between fences, at their lines."""
    parts = ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in _FENCED.finditer(text)] or [text]
    return [root for part in parts for root in _composed(templated(_TEMPLATE_LINE.sub("", part)))]


def _composed(text: str) -> list[yaml.Node]:
    try:
        return [checked(root) for root in yaml.compose_all(text, yaml.SafeLoader) if isinstance(root, yaml.Node)]
    except (yaml.YAMLError, RecursionError):
        return []


def _mapping(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """A mapping's nodes by key; empty for anything else."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _scalar(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _containers(node: yaml.Node, around: _Around) -> Iterator[Container]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _containers(item, around)
    keys = _mapping(node)
    around = _around(keys, around)
    if keys.keys() & set(_STARTS):
        yield _container(keys, around)
    elif re.search(r"\s", _scalar(keys.get("run")).strip()):  # a task of a pipeline or of a cloud
        yield _task(keys, around)
    elif (lines := _lines(keys)) is not None:  # a task whose lines are a list
        yield _task({**keys, "run": lines}, around)
    for key, value in keys.items():
        if key not in (*_STARTS, *_BESIDE):
            yield from _containers(value, replace(around, name=key) if "image" in _mapping(value) else around)


def _flag_lists(node: yaml.Node, model: yaml.Node | None) -> Iterator[Container]:
    """Lists of flags under a user's own key, with the model that a key around them names."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _flag_lists(item, model)
    keys = _mapping(node)
    model = keys.get("model", model)
    beside = next((keys[key] for key in _BESIDE if key in keys), None)
    for key, value in keys.items():
        items = value.value if isinstance(value, yaml.SequenceNode) else []
        flags = [text for item in items if (text := _scalar(item)).startswith("--")]
        if len(flags) < 2 or not _scalar(items[0]).startswith("--"):
            yield from _flag_lists(value, model)
            continue
        notes: list[Diagnostic] = []
        words = _words(value, notes)
        if _scalar(model) and not any(flag.startswith("--model") for flag in flags):
            assert model is not None
            where = Where(model.start_mark.line + 1, model.start_mark.column + 1, _scalar(model))
            words = [RawWord(where, [WordPart("text", "--model")]), *_plain(model), *words]
        yield Container(tuple(words), dict(_environment(beside)), key, tuple(notes))


def _around(keys: Mapping[str, yaml.Node], around: _Around) -> _Around:
    """What these keys add to what is known around a container."""
    copies = _copies(keys) or around.copies
    found = replace(around, name=_name(keys) or _service(keys, around.name), copies=copies)
    size = _mapping(keys.get("leaderWorkerTemplate")).get("size")
    if isinstance(size, yaml.ScalarNode) and (nodes := whole_number(size.value)) is not None:
        word = Word(size.value, Where(size.start_mark.line + 1, size.start_mark.column + 1, size.value))
        found = replace(found, nodes=nodes, variables={**found.variables, "LWS_GROUP_SIZE": word})
    count = whole_number(_scalar(_mapping(keys.get("multinode")).get("nodeCount")))
    return found if count is None else replace(found, nodes=count)


def _copies(keys: Mapping[str, yaml.Node]) -> tuple[Diagnostic, ...]:
    """Copies of a Deployment, of a group of leader and workers, of a service; a StatefulSet's pods may be nodes."""
    node = keys.get("replicas") if "componentType" in keys else _mapping(keys.get("deploy")).get("replicas")
    if _scalar(keys.get("kind")) in ("Deployment", "LeaderWorkerSet"):
        node = _mapping(keys.get("spec")).get("replicas")
    if not isinstance(node, yaml.ScalarNode) or (count := whole_number(node.value) or 0) < 2:
        return ()
    return (copies_note(count, Where(node.start_mark.line + 1, node.start_mark.column + 1, node.value)),)


def _service(keys: Mapping[str, yaml.Node], name: str) -> str:
    """The role that a service of a disaggregated deployment states, else the name around it."""
    role = _scalar(keys.get("subComponentType"))
    return role if role in ("prefill", "decode") else name


def _name(keys: Mapping[str, yaml.Node]) -> str:
    """metadata.name, or a container's own name."""
    node = keys.get("name")
    if "metadata" in keys:
        node = _mapping(keys["metadata"]).get("name")
    return _scalar(node)


def _container(keys: Mapping[str, yaml.Node], around: _Around) -> Container:
    notes: list[Diagnostic] = []
    words = list(_plain(keys["image"])) if "image" in keys else []
    image = len(words)
    for key in ("entrypoint", "command", "args"):
        if key in keys:
            words += _words(keys[key], notes)
    beside = next((keys[key] for key in _BESIDE if key in keys), None)
    environment = {**around.variables, **dict(_environment(beside))}
    return Container(tuple(words), environment, around.name, (*around.copies, *notes), image, around.nodes)


def _lines(keys: Mapping[str, yaml.Node]) -> yaml.ScalarNode | None:
    """Lines of shell that a list holds, as one text with every line at its place."""
    found = next((keys[key] for key in _LINES if isinstance(keys.get(key), yaml.SequenceNode)), None)
    items = [item for item in found.value if isinstance(item, yaml.ScalarNode)] if found is not None else []
    if not any(re.search(r"\s--?[A-Za-z]", item.value) for item in items):
        return None
    text, first = "", items[0].start_mark.line
    for item in items:
        below = item.start_mark.line + (item.style in ("|", ">")) - first
        text += "\n" * max(below - text.count("\n"), 1 if text else 0) + item.value.rstrip("\n")
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, items[0].start_mark, items[0].end_mark)


def _task(keys: Mapping[str, yaml.Node], around: _Around) -> Container:
    """A script of a task with the variables beside it."""
    node = keys["run"]
    below = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    where = Where(node.start_mark.line + 1 + below, 1 if below else node.start_mark.column + 1)
    words = [RawWord(where, [WordPart("text", word)], quoted=True) for word in ("bash", "-c", _scalar(node))]
    beside = next((keys[key] for key in _BESIDE if key in keys), None)
    return Container(tuple(words), {**around.variables, **dict(_environment(beside))}, around.name)


def _words(node: yaml.Node, notes: list[Diagnostic]) -> list[RawWord]:
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


def _split(word: RawWord, notes: list[Diagnostic]) -> Iterator[RawWord]:
    """An item '--tp 8' is one word to the engine; it was meant as two."""
    text = word.where.text
    match = re.fullmatch(r"(--?[\w-]+)[ \t]+([^\s'\"{]+)", text)
    if match is None:
        yield word
        return
    message = f"{text!r} is one list item, which an engine takes for one unknown word; read as flag and value"
    notes.append(Diagnostic("warning", "one-item", message, word.where))
    yield RawWord(word.where, [WordPart("text", match[1])])
    yield RawWord(word.where, list(_pieces(match[2])))


def _pieces(text: str) -> Iterator[WordPart]:
    """Kubernetes fills in $(NAME), compose ${NAME}; a script inside keeps its own variables for its own reading."""
    if re.search(r"\s", text.strip()):
        yield WordPart("text", text)
        return
    at = 0
    for match in _EXPANDS.finditer(text):
        if match.start() > at:
            yield WordPart("text", text[at : match.start()])
        yield WordPart("variable", match[1] or match[2] or match[3], quoted=True)
        at = match.end()
    if at < len(text) or not text:
        yield WordPart("text", text[at:])


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
