"""How deep a request's values are nested: found without recursion, before anything else looks into them."""

from __future__ import annotations

from typing import Any

MOST_LEVELS = 120
"""Levels of a schema: the grammar library takes a few more."""
MOST_LEVELS_OF_JOB = 200
"""Levels of whatever is worked on: what unpacks it takes some more."""


def is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects stand in more than `most` levels inside each other."""
    level = [value] if isinstance(value, list | tuple | dict) else []
    for _ in range(most):
        level = [inner for each in level for inner in _members(each)]
        if not level:
            return False
    return bool(level)


def _members(value: list[Any] | tuple[Any, ...] | dict[str, Any]) -> list[Any]:
    members = value.values() if isinstance(value, dict) else value
    return [each for each in members if isinstance(each, list | tuple | dict)]
