"""YAML's aliases, bounded: none stands inside what it names, and none makes a short text endless."""

from __future__ import annotations

import yaml

_MOST = 200_000
"""Values of a document with aliases, each counted wherever it stands."""


def checked(root: yaml.Node) -> yaml.Node:
    """The same root. MarkedYAMLError: its aliases have no end, or make more values of it than a file can need."""
    found: dict[int, int | None] = {}
    if _values(root, found) > max(_MOST, len(found)):
        raise yaml.MarkedYAMLError(problem=f"aliases make over {_MOST} values of it", problem_mark=root.start_mark)
    return root


def _values(node: yaml.Node, found: dict[int, int | None]) -> int:
    if id(node) in found:
        known = found[id(node)]
        if known is None:
            raise yaml.MarkedYAMLError(problem="an alias stands inside what it names", problem_mark=node.start_mark)
        return known
    found[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    count = 1 + sum(_values(part, found) for part in inner)
    found[id(node)] = count
    return count
