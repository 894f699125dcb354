"""Which objects of a schema have no properties but those that they name, where the schema is silent about others.

A small model would go on with properties of its own for ever. An object stays open where closing it would forbid what
the schema asks for: where another schema of the same place may name further properties, or it asks for some itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from weft.compute.grammars.one_of import pointed, resolve, types_of

_SAYS = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties"})
"""The schema speaks of other properties."""
_TOGETHER = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$dynamicRef", "$recursiveRef", "contains",
     "dependentSchemas", "dependencies"}
)  # fmt: skip
"""Other schemas of the same place, or of a place inside."""
_ANNOTATIONS = frozenset(
    {"title", "description", "$comment", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
     "$schema", "$id", "id", "$anchor", "$defs", "definitions", "nullable"}
)  # fmt: skip
_MAPS = frozenset({"dependentSchemas", "dependencies"})
_BY_NAME = frozenset({"properties", "patternProperties"})
_LISTS = frozenset({"items", "prefixItems", "additionalItems", "additionalProperties"})
_BRANCHES = frozenset({"allOf", "anyOf", "oneOf"})


def closed_objects(root: Any) -> frozenset[int]:
    """`id` of each schema inside `root` that is to be closed."""
    # A schema that several places refer to is closed where all of them let it be: False wins.
    found: dict[int, bool] = {}
    waiting: list[tuple[Any, bool]] = [(root, True)]
    while waiting:
        schema, may = waiting.pop()
        if not isinstance(schema, dict) or found.get(id(schema), True) < may or found.get(id(schema)) is may:
            continue
        found[id(schema)] = may
        waiting += _inside(schema, may, root)
    schemas = {id(each): each for each in _all(root)}
    return frozenset(key for key, may in found.items() if may and key in schemas and _closes(schemas[key]))


def _inside(schema: dict[str, Any], may: bool, root: Any) -> Iterator[tuple[Any, bool]]:
    """Schemas that places of a document of `schema` are held to, and whether they may be closed."""
    alone = _alone(schema, root)
    further = may and (alone or not _TOGETHER & schema.keys()) and not _refers_beside(schema)
    for word, value in schema.items():
        if word in _BY_NAME and isinstance(value, Mapping):
            yield from ((each, further) for each in value.values())
        elif word in _LISTS:
            yield from ((each, further) for each in (value if isinstance(value, list) else [value]))
        elif word in _BRANCHES and isinstance(value, list):
            yield from ((each, further) for each in value)
        elif word in _TOGETHER and isinstance(value, Mapping):
            yield from ((each, False) for each in (value.values() if word in _MAPS else [value]))
        elif word == "$ref" and isinstance(value, str) and value.startswith("#"):
            yield pointed(value, root), further


def _alone(schema: Mapping[str, Any], root: Any) -> bool:
    """Whether it says the same as one of its branches: it has nothing beside them, and the others are no objects."""
    words = schema.keys() & _BRANCHES
    if len(words) != 1 or schema.keys() - words - _ANNOTATIONS:
        return False
    branches = schema[next(iter(words))]
    if not isinstance(branches, list):
        return False
    return len(branches) == 1 or (
        "allOf" not in words and sum("object" in types_of(resolve(each, root)) for each in branches) <= 1
    )


def _refers_beside(schema: Mapping[str, Any]) -> bool:
    return "$ref" in schema and bool(schema.keys() - {"$ref"} - _ANNOTATIONS)


def _closes(schema: Mapping[str, Any]) -> bool:
    """Whether it names properties, and nothing that it says itself needs others."""
    named = schema.get("properties")
    if not isinstance(named, Mapping) or schema.keys() & (_SAYS | _TOGETHER | {"$ref"}):
        return False
    required = schema.get("required", ())
    wanted = [*required] if isinstance(required, list) else []
    dependent = schema.get("dependentRequired")
    for names in dependent.values() if isinstance(dependent, Mapping) else ():
        wanted += names if isinstance(names, list) else []
    for value in [schema.get("const"), *(schema["enum"] if isinstance(schema.get("enum"), list) else ())]:
        wanted += value if isinstance(value, Mapping) else ()
    least = schema.get("minProperties", 0)
    possible = sum(each is not False for each in named.values())
    return all(isinstance(name, str) and name in named for name in wanted) and (
        not isinstance(least, int | float) or least <= possible
    )


def _all(schema: Any) -> Iterator[Any]:
    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
