"""Layouts as documents: YAML or JSON to `Given` and back, and the JSON schema. Rules between sizes are `resolve`'s."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from weft.base.errors import LayoutError
from weft.base.options import Setting, nearest, removed
from weft.parallel.layout.layout import WORLD, Given, Layout, layout_settings

_SHOWN = 40
"""Characters of a wrong value: the file may be no layout at all."""
_JSON_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


def load_given(source: str | Path) -> Given:
    """The values of a document: text, or a file where `source` is a Path.

    Nulls mean not given. Raises LayoutError with the line for broken syntax, unknown or duplicate keys, wrong types.
    """
    name = str(source) if isinstance(source, Path) else "layout"
    text = _read(source) if isinstance(source, Path) else source
    try:
        root = yaml.compose(text.replace("\t", " ") if text.lstrip().startswith("{") else text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        raise LayoutError(f"{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise LayoutError(f"{name}: {str(error).splitlines()[0]}") from None
    return _Reader(name).document(root)


def flatten(document: Mapping[str, object]) -> Given:
    """The values of a nested mapping ({"attention": {"tp": 2}}) or a flat one ({"attention.tp": 2})."""
    values: dict[str, object] = {}
    sections = _sections()
    for key, value in document.items():
        if isinstance(value, Mapping):
            values |= {f"{key}.{leaf}": item for leaf, item in _flat(value)}
        else:
            values[str(key)] = value
    known = {setting.name for setting in layout_settings()}
    return {name: value for name, value in values.items() if value is not None or name not in {*known, *sections}}


def to_dict(layout: Layout) -> dict[str, object]:
    """The nested document of a layout, every size resolved, plus world."""
    document: dict[str, object] = {}
    for setting in layout_settings():
        _put(document, setting.name.split("."), _value_of(layout, setting))
    for section in ("experts", "shared_experts"):
        if getattr(layout, section) is None:
            document[section] = None
    return {"world": layout.world, **document}


def to_yaml(layout: Layout) -> str:
    """The document as YAML, one line per module; values that the user left open are marked as derived."""
    document = to_dict(layout)
    lines = []
    for section, value in document.items():
        derived = sorted((name for name in layout.derived if name.split(".")[0] == section), key=_order().__getitem__)
        note = "  # derived: " + ", ".join(name.partition(".")[2] or name for name in derived) if derived else ""
        flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("...\n")
        lines.append(f"{section}: {flow.strip()}{note}")
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, object]:
    """JSON schema (2020-12) of a layout document; rules between sizes are `resolve`'s."""
    root: dict[str, object] = {"world": WORLD.schema()}
    for setting in layout_settings():
        _put_schema(root, setting)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "weft layout",
        "type": ["object", "null"],
        "properties": root,
        "additionalProperties": False,
    }


class _Reader:
    """Walks the nodes of one document and keeps the place of every problem."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = {setting.name: setting for setting in layout_settings()}
        self.sections = _sections()

    def document(self, root: yaml.Node | None) -> Given:
        values: dict[str, object] = {}
        if root is not None and not _is_null(root):
            self._mapping(root, "", values)
        return values

    def _mapping(self, node: yaml.Node, prefix: str, values: dict[str, object]) -> None:
        if not isinstance(node, yaml.MappingNode):
            what = prefix.rstrip(".") or "a layout"
            raise self._error(node, f"{what} is a mapping of names to values, not {_kind(node)}")
        seen: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else _kind(key_node)
            name = prefix + key
            if key in seen:
                first, again = seen[key].start_mark.line + 1, key_node.start_mark.line + 1
                raise self._error(key_node, f"{name} is given twice, in line {first} and in line {again}", name)
            seen[key] = key_node
            self._entry(key_node, value_node, name, prefix, values)

    def _entry(
        self, key_node: yaml.Node, value_node: yaml.Node, name: str, prefix: str, values: dict[str, object]
    ) -> None:
        dotted = "." in name[len(prefix) :]
        if name in self.sections and not dotted:
            if not _is_null(value_node):
                self._mapping(value_node, name + ".", values)
            return
        if dotted or name not in (*self.settings, "world"):
            siblings = [other[len(prefix) :] for other in self._names() if other.startswith(prefix)]
            near = nearest(name[len(prefix) :], [other for other in siblings if "." not in other])
            instead = removed(name)
            raise self._error(key_node, f"{name}: {instead}" if instead else f"unknown key {name}{near}", name)
        value = self._value(value_node)
        problem = self._problem(name, value)
        if problem:
            raise self._error(value_node, f"{name}: {problem}", name, value)
        if value is not None:
            values[name] = self._setting(name).normal(value)

    def _names(self) -> Iterable[str]:
        return ("world", *self.sections, *self.settings)

    def _problem(self, name: str, value: object) -> str | None:
        """A problem of type or range; null means not given everywhere."""
        if value is None:
            return None
        return self._setting(name).problem(value)

    def _setting(self, name: str) -> Setting:
        return WORLD if name == "world" else self.settings[name]

    def _value(self, node: yaml.Node) -> object:
        if isinstance(node, yaml.SequenceNode):
            if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
                raise self._error(node, "a list inside a list or a mapping inside a list")
            return tuple(self._value(item) for item in node.value)
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a mapping where a value is wanted")
        try:
            if node.style is None and _JSON_NUMBER.fullmatch(node.value):
                return json.loads(node.value) if not re.match(r"-?0\d", node.value) else int(node.value)
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError):
            raise self._error(node, f"{node.value[:40]!r} cannot be read") from None

    def _error(self, node: yaml.Node, message: str, field: str | None = None, value: object = None) -> LayoutError:
        return LayoutError(f"{self.name}, line {node.start_mark.line + 1}: {message}", field=field, value=value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise LayoutError(f"layout file {path}: {reason}", field="--layout", value=str(path)) from None


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value if len(node.value) <= _SHOWN else node.value[:_SHOWN] + "...")
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _sections() -> tuple[str, ...]:
    """Dotted names of the records inside the layout, in order."""
    found: dict[str, None] = {}
    for setting in layout_settings():
        parts = setting.name.split(".")
        found |= {".".join(parts[:depth]): None for depth in range(1, len(parts))}
    return tuple(found)


def _flat(mapping: Mapping[str, object]) -> list[tuple[str, object]]:
    leaves: list[tuple[str, object]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            leaves += [(f"{key}.{leaf}", item) for leaf, item in _flat(value)]
        else:
            leaves.append((key, value))
    return leaves


def _order() -> dict[str, int]:
    return {setting.name: place for place, setting in enumerate(layout_settings())}


def _value_of(layout: Layout, setting: Setting) -> object:
    value: object = layout
    for part in setting.name.split("."):
        value = getattr(value, part) if value is not None else None
    return list(value) if isinstance(value, tuple) else value


def _put(document: dict[str, object], path: list[str], value: object) -> None:
    for part in path[:-1]:
        inner = document.setdefault(part, {})
        assert isinstance(inner, dict)
        document = inner
    document[path[-1]] = value


def _put_schema(properties: dict[str, object], setting: Setting) -> None:
    *sections, leaf = setting.name.split(".")
    for section in sections:
        empty = {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
        inner = properties.setdefault(section, empty)
        assert isinstance(inner, dict)
        properties = inner["properties"]
    properties[leaf] = _nullable(setting.schema())


def _nullable(schema: dict[str, object]) -> dict[str, object]:
    if "enum" in schema:
        values = schema["enum"]
        assert isinstance(values, list)
        return schema | {"enum": values if None in values else [*values, None]}
    kind = schema["type"]
    return schema | {"type": kind if isinstance(kind, list) else [kind, "null"]}
