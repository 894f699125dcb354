"""Whether at most one schema of a `oneOf` can be met by any document: `anyOf` then means the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

Json = Any
MOST_BRANCHES = 256
MOST_DEPTH = 8
"""References, branches and properties that are looked into."""
_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string"})


def told_apart(branches: list[Any], root: Any) -> bool:
    """Every two of them differ in type, in a const or enum, or in a property that one of them requires. `root`: of
    references."""
    if len(branches) > MOST_BRANCHES:
        return False
    return all(_apart(one, other, root) for one, other in combinations(branches, 2))


def resolve(schema: Any, root: Any, times: int = 16) -> Any:
    """What a schema that is only a reference inside `root` refers to; itself where that is nothing."""
    while times and isinstance(schema, dict) and isinstance(target := schema.get("$ref"), str):
        times -= 1
        if not target.startswith("#/") or {*schema} - {"$ref", "title", "description", "$comment"}:
            return schema
        found = pointed(target, root)
        if found is None:
            return schema
        schema = found
    return schema


def pointed(target: str, root: Any) -> Any:
    """What a reference `#/...` inside `root` refers to; None: nothing."""
    found: Any = root
    for part in target.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, Mapping) and key in found:
            found = found[key]
        else:
            return None
    return found


def _apart(one: Any, other: Any, root: Any, depth: int = 0) -> bool:
    """Whether some part of `one` excludes some part of `other`."""
    if depth > MOST_DEPTH:
        return False
    one, other = resolve(one, root), resolve(other, root)
    for schema, against in ((one, other), (other, one)):
        if isinstance(schema, dict):
            for word in ("anyOf", "oneOf"):
                branches = schema.get(word)
                if isinstance(branches, list) and all(_apart(each, against, root, depth + 1) for each in branches):
                    return True
            further = [schema["$ref"]] if schema.keys() - {"$ref"} and isinstance(schema.get("$ref"), str) else []
            parts = [pointed(target, root) for target in further if target.startswith("#")]
            parts += schema["allOf"] if isinstance(schema.get("allOf"), list) else []
            if any(_apart(each, against, root, depth + 1) for each in parts):
                return True
    return _apart_themselves(one, other, root, depth)


def _apart_themselves(one: Any, other: Any, root: Any, depth: int) -> bool:
    """By what both say directly."""
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if not types_of(one) & types_of(other):
        return True
    values = _values(one), _values(other)
    if values[0] is not None and values[1] is not None and not values[0] & values[1]:
        return True
    if not types_of(one) <= {"object"} or not types_of(other) <= {"object"}:
        return False  # a document of another type meets both
    required = _required(one) | _required(other)
    return any(_apart(_member(one, name), _member(other, name), root, depth + 1) for name in required)


def _member(schema: dict[str, Any], name: str) -> Any:
    """The schema of a property, False where there can be none."""
    properties, patterns = schema.get("properties"), schema.get("patternProperties")
    if isinstance(properties, dict) and name in properties:
        return properties[name]
    return True if patterns else schema.get("additionalProperties", True)


def _required(schema: dict[str, Any]) -> set[str]:
    required = schema.get("required")
    return {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()


def types_of(schema: Any) -> set[str]:
    """What a document that meets it may be; integers are numbers."""
    if not isinstance(schema, dict):
        return {*_TYPES} if schema is not False else set()
    given = schema.get("type")
    types = [given] if isinstance(given, str) else given if isinstance(given, list) else [*_TYPES]
    found = {"number" if each == "integer" else each for each in types if isinstance(each, str)}
    values = _values(schema)
    return found if values is None else found & {kind for kind, _ in values}


def _values(schema: dict[str, Any]) -> set[tuple[str, str]] | None:
    """All documents that meet it, where const or enum lists them."""
    if "const" in schema:
        return {_key(schema["const"])}
    if isinstance(schema.get("enum"), list):
        return {_key(value) for value in schema["enum"]}
    return None


def _key(value: Any) -> tuple[str, str]:
    """Type and content of a document; equal ones have equal keys."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean", repr(value)
    if isinstance(value, int | float):
        return "number", repr(value + 0.0) if abs(value) < 2**53 else repr(value)
    if isinstance(value, str):
        return "string", value
    return "array" if isinstance(value, list) else "object", "|".join(_flat(value))


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        yield "["
        for each in value:
            yield from _flat(each)
        yield "]"
    elif isinstance(value, dict):
        yield "{"
        for name in sorted(value):
            yield repr(name)
            yield from _flat(value[name])
        yield "}"
    else:
        yield repr(_key(value))
