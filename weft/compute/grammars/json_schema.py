"""A JSON schema as the grammar library can hold it: what it holds stays, the rest is refused or left out by name.

A grammar is built ahead of the answer, so it can say what each place of a document may be, and little about two places
together: `uniqueItems` or `not` cannot be held. What the library would take and get wrong is not given to it either.
The words are those of drafts 7 and 2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.base.errors import RequestError
from weft.compute.grammars.one_of import told_apart

MAX_BYTES = 64 << 10
MAX_PROPERTIES = 1000
MAX_ENUM = 10_000
MAX_DEPTH = 64
"""Schemas inside schemas."""

FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Those that the library holds; any other is an annotation, as JSON Schema has it."""
SPACE = r"( |\n{1,2}[ \t]{0,20})?"
"""Between two tokens of JSON: as llama.cpp has it. A small model would go on with blank lines for ever."""

_SCHEMA, _SCHEMAS, _MAP, _PLAIN = "schema", "list of schemas", "schemas by name", "value"
HELD = {
    "type": _PLAIN, "const": _PLAIN, "enum": _PLAIN, "$ref": _PLAIN, "required": _PLAIN, "format": _PLAIN,
    "minLength": _PLAIN, "maxLength": _PLAIN, "pattern": _PLAIN, "minimum": _PLAIN, "maximum": _PLAIN,
    "exclusiveMinimum": _PLAIN, "exclusiveMaximum": _PLAIN, "multipleOf": _PLAIN, "minItems": _PLAIN,
    "maxItems": _PLAIN, "minProperties": _PLAIN, "maxProperties": _PLAIN, "$anchor": _PLAIN, "$id": _PLAIN,
    "$schema": _PLAIN, "id": _PLAIN,
    "additionalProperties": _SCHEMA, "additionalItems": _SCHEMA, "items": _SCHEMA,
    "anyOf": _SCHEMAS, "oneOf": _SCHEMAS, "allOf": _SCHEMAS, "prefixItems": _SCHEMAS,
    "properties": _MAP, "patternProperties": _MAP, "$defs": _MAP, "definitions": _MAP,
}  # fmt: skip
"""Keywords that a grammar holds, and what their values are."""
NOT_HELD: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "not": lambda value, _: value is not False,
    "if": lambda _, schema: "then" in schema or "else" in schema,
    "then": lambda _, schema: "if" in schema,
    "else": lambda _, schema: "if" in schema,
    "contains": lambda _, schema: True,
    "minContains": lambda _, schema: "contains" in schema,
    "maxContains": lambda _, schema: "contains" in schema,
    "uniqueItems": lambda value, _: value is not False,
    "propertyNames": lambda value, _: value is not True and value != {},
    "dependentRequired": lambda value, _: value != {},
    "dependentSchemas": lambda value, _: value != {},
    "dependencies": lambda value, _: value != {},
    "unevaluatedItems": lambda value, _: value is not True and value != {},
    "unevaluatedProperties": lambda value, _: value is not True and value != {},
    "$dynamicRef": lambda _, schema: True,
    "$recursiveRef": lambda _, schema: True,
}
"""Keywords that no grammar holds, and whether they mean anything where they stand. Others are annotations."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NESTED_IDS = ("$id", "id")


@dataclass(slots=True)
class HeldSchema:
    """`schema`: for the library. `left_out`: keyword and path of what it does not hold."""

    schema: Any
    left_out: list[str] = field(default_factory=list)


def held_schema(schema: Any, param: str, *, strict: bool, closed: bool = False) -> HeldSchema:
    """`strict`: a keyword that cannot be held is refused, else left out. `closed`: where a schema has properties and
    does not say what others may be, there are no others. RequestError naming `param`: it is no schema,
    too large, or that."""
    if not isinstance(schema, dict | bool):
        raise _wrong(param, "", f"a {type(schema).__name__} is no JSON schema; an object is needed")
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except (UnicodeEncodeError, RecursionError) as error:
        raise _wrong(param, "", "it is nested too deeply, or holds half a character") from error
    if size > MAX_BYTES:
        raise _wrong(param, "", f"it has {size} bytes; legal: at most {MAX_BYTES}")
    walk = _Walk(schema, param, strict, closed)
    held = HeldSchema(walk.schema(schema, "", 0))
    held.left_out = walk.left_out
    return held


def without_refused(held: HeldSchema, refused: Callable[[Any], str | None], param: str, strict: bool) -> HeldSchema:
    """A schema that compiles, of one that does not: without the patterns and factors that the library cannot take.
    RequestError: `strict`, or it is something else. `refused`: why a schema does not compile."""
    for keyword in ("pattern", "patternProperties", "multipleOf"):
        for path, inner in list(keywords_at(held.schema, keyword)):
            part = {keyword: inner[keyword]}
            if (why := refused({"type": "string", **part} if keyword == "pattern" else part)) is None:
                continue
            if strict:
                raise _wrong(param, f"{path}/{keyword}", why)
            del inner[keyword]
            held.left_out.append(left_out(keyword, path))
    if (why := refused(held.schema)) is not None:
        raise _wrong(param, "", why)
    return held


def keywords_at(schema: Any, word: str, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every schema inside `schema` that has `word`."""
    if not isinstance(schema, dict):
        return
    if word in schema:
        yield path, schema
    for name, value in schema.items():
        for at, inner in _inside(name, value, f"{path}/{escaped(name)}"):
            yield from keywords_at(inner, word, at)


def _inside(name: str, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    kind = HELD.get(name)
    if kind == _SCHEMA and not isinstance(value, list):
        yield path, value
    elif kind in (_SCHEMAS, _SCHEMA) and isinstance(value, list):
        yield from ((f"{path}/{index}", each) for index, each in enumerate(value))
    elif kind == _MAP and isinstance(value, dict):
        yield from ((f"{path}/{escaped(key)}", each) for key, each in value.items())


class _Walk:
    """Through one schema, counting."""

    def __init__(self, root: Any, param: str, strict: bool, closed: bool) -> None:
        self._root, self._param, self._strict, self._closed = root, param, strict, closed
        self._properties = self._values = 0
        self.left_out: list[str] = []

    def schema(self, schema: Any, path: str, depth: int) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise _wrong(self._param, path, "an object, true or false is needed")
        if depth > MAX_DEPTH:
            raise _wrong(self._param, path, f"it is nested deeper than {MAX_DEPTH} schemas")
        held: dict[str, Any] = {}
        for name, value in schema.items():
            at = f"{path}/{escaped(name)}"
            if name in NOT_HELD:
                if NOT_HELD[name](value, schema):
                    self._leave_out(name, path)
            elif name == "oneOf":
                self._one_of(value, held, at, depth)
            elif name in HELD:
                self._take(name, value, held, at, depth)
        if self._closed and "properties" in held:
            held.setdefault("additionalProperties", False)
        return held

    def _take(self, name: str, value: Any, held: dict[str, Any], at: str, depth: int) -> None:
        if name in _NESTED_IDS:
            if depth and isinstance(value, str) and not value.startswith("#"):
                self._leave_out(name, at.rpartition("/")[0])  # it changes what references mean
            elif name == "$id" and isinstance(value, str):
                held[name] = value
        elif name == "$schema":
            pass
        elif name == "format":
            if isinstance(value, str) and value in FORMATS:
                held[name] = value
        elif name in _COUNTS:
            held[name] = int(value) if isinstance(value, float) and value.is_integer() else value
        elif HELD[name] == _PLAIN:
            held[name] = value
            if name == "enum" and isinstance(value, list):
                self._values += len(value)
                self._check_count(self._values, MAX_ENUM, "values in enum", at)
        else:
            held[name] = self._schemas(name, value, at, depth)

    def _schemas(self, name: str, value: Any, at: str, depth: int) -> Any:
        kind = HELD[name]
        if kind == _MAP:
            if not isinstance(value, dict):
                raise _wrong(self._param, at, "an object is needed")
            if name in ("properties", "patternProperties"):
                self._properties += len(value)
                self._check_count(self._properties, MAX_PROPERTIES, "properties", at)
            return {key: self.schema(each, f"{at}/{escaped(key)}", depth + 1) for key, each in value.items()}
        if isinstance(value, list) and (kind == _SCHEMAS or name == "items"):
            return [self.schema(each, f"{at}/{index}", depth + 1) for index, each in enumerate(value)]
        if kind == _SCHEMAS:
            raise _wrong(self._param, at, "a list of schemas is needed")
        return self.schema(value, at, depth + 1)

    def _one_of(self, value: Any, held: dict[str, Any], at: str, depth: int) -> None:
        """As `anyOf`: the same where at most one of the schemas can be met."""
        branches = self._schemas("anyOf", value, at, depth)
        if not told_apart(value, self._root):
            self._leave_out("oneOf", at.rpartition("/")[0])
        held.setdefault("allOf", [])
        held["allOf"] = [*held["allOf"], {"anyOf": branches}]

    def _leave_out(self, keyword: str, path: str) -> None:
        if self._strict:
            raise not_held(self._param, keyword, path)
        self.left_out.append(left_out(keyword, path))

    def _check_count(self, count: int, most: int, what: str, at: str) -> None:
        if count > most:
            raise _wrong(self._param, at, f"the schema has more than {most} {what}")


def left_out(keyword: str, path: str) -> str:
    """As headers and the log name a keyword that is not held."""
    return f"{keyword} at {path or '/'}"


def not_held(param: str, keyword: str, path: str) -> RequestError:
    """A strict schema in `param` has such a keyword."""
    return RequestError(
        f"'{param}' has '{keyword}' at '{path or '/'}', which no grammar can hold; leave it out, or ask for a schema"
        " that is not strict",
        param=param,
        code="unsupported_schema",
    )


def _wrong(param: str, path: str, message: str) -> RequestError:
    where = f"'{param}' at '{path}'" if path else f"'{param}'"
    return RequestError(f"{where}: {message}", param=param, code="invalid_schema")


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
