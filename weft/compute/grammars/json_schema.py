"""A JSON schema as the grammar library can hold it: what it holds stays, the rest is refused or left out by name.

A grammar is built ahead of the answer, so it can say what each place of a document may be, and little about two places
together: `uniqueItems` or `not` cannot be held. What the library would take and get wrong is not given to it either.
The words are those of drafts 7 and 2020-12.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from weft.base.errors import RequestError
from weft.compute.grammars.closing import closed_objects
from weft.compute.grammars.keywords import FORMATS, HELD, MAP, NOT_HELD, PLAIN, SCHEMA, SCHEMAS, WELL_FORMED
from weft.compute.grammars.nesting import MOST_LEVELS, is_deeper
from weft.compute.grammars.number_bounds import BOUNDS, UnheldBoundError, kept_bounds
from weft.compute.grammars.one_of import told_apart

MAX_BYTES = 1 << 20
MAX_PROPERTIES = 1000
"""Of one object."""
MAX_ALL_PROPERTIES = 20_000
MAX_ENUM = 10_000
MAX_DEPTH = 64
"""Schemas inside schemas."""

SPACE = r"( |\n{1,2}[ \t]{0,20})?"
"""Between two tokens of JSON: as llama.cpp has it. A small model would go on with blank lines for ever."""

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MAX_PATH = 80
"""Characters of a path in an error."""
NOT_POSSIBLE = "no grammar can hold it"
_NESTED_IDS = ("$id", "id")


@dataclass(slots=True)
class HeldSchema:
    """`schema`: for the library. `left_out`: keyword and path of what it does not hold."""

    schema: Any
    left_out: list[str] = field(default_factory=list)


def held_schema(schema: Any, param: str, *, strict: bool, closed: bool = False) -> HeldSchema:
    """`strict`: a keyword that cannot be held is refused, else left out. `closed`: objects that say nothing of further
    properties have none (`closing.py`). RequestError naming `param`: it is no schema, too large, or that."""
    if not isinstance(schema, dict | bool):
        raise wrong(param, "", f"a {type(schema).__name__} is no JSON schema; an object is needed")
    if is_deeper(schema, MOST_LEVELS):
        raise wrong(param, "", f"it is nested deeper than {MOST_LEVELS} levels")
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise wrong(param, "", "it holds half a character") from error
    if size > MAX_BYTES:
        raise wrong(param, "", f"it has {size} bytes; legal: at most {MAX_BYTES}")
    schema = with_pointers(schema)
    walk = _Walk(schema, param, strict, closed_objects(schema) if closed else frozenset())
    held = HeldSchema(walk.schema(schema, "", 0))
    held.left_out = walk.left_out
    return held


def keywords_at(schema: Any, word: str, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every schema inside `schema` that has `word`."""
    if not isinstance(schema, dict):
        return
    if word in schema:
        yield path, schema
    for name, value in schema.items():
        for at, inner in inside(name, value, f"{path}/{escaped(name)}"):
            yield from keywords_at(inner, word, at)


def inside(name: str, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and schema of the schemas that the keyword `name` holds."""
    kind = HELD.get(name)
    if kind == SCHEMA and not isinstance(value, list):
        yield path, value
    elif kind in (SCHEMAS, SCHEMA) and isinstance(value, list):
        yield from ((f"{path}/{index}", each) for index, each in enumerate(value))
    elif kind == MAP and isinstance(value, dict):
        yield from ((f"{path}/{escaped(key)}", each) for key, each in value.items())


def with_pointers(root: Any) -> Any:
    """A schema whose references by `$anchor`, or by an `$id` such as "#name", are JSON pointers."""
    anchors: dict[str, str] = {}
    for word in ("$anchor", *_NESTED_IDS):
        for path, schema in keywords_at(root, word):
            name = schema[word]
            if isinstance(name, str) and (word == "$anchor" or name.startswith("#")):
                anchors[f"#{name.removeprefix('#')}"] = f"#{path}"
    if not anchors:
        return root
    root = copy.deepcopy(root)
    for _, schema in keywords_at(root, "$ref"):
        if isinstance(schema["$ref"], str):
            schema["$ref"] = anchors.get(schema["$ref"], schema["$ref"])
    return root


class _Walk:
    """Through one schema, counting."""

    def __init__(self, root: Any, param: str, strict: bool, closed: frozenset[int]) -> None:
        self._root, self._param, self._strict, self._closed = root, param, strict, closed
        self._properties = self._values = 0
        self.left_out: list[str] = []

    def schema(self, schema: Any, path: str, depth: int) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise wrong(self._param, path, "an object, true or false is needed")
        if depth > MAX_DEPTH:
            raise wrong(self._param, path, f"it is nested deeper than {MAX_DEPTH} schemas")
        held: dict[str, Any] = {}
        for name, value in schema.items():
            at = f"{path}/{escaped(name)}"
            if name in NOT_HELD:
                if NOT_HELD[name](value, schema):
                    self._leave_out(name, path)
            elif name in BOUNDS:
                continue
            elif name == "oneOf":
                self._one_of(value, held, at, depth)
            elif name in HELD:
                self._take(name, value, held, at, depth)
        if id(schema) in self._closed:
            held["additionalProperties"] = False
        self._bounds(schema, held, path)
        self._least_properties(held, path)
        return held

    def _bounds(self, schema: dict[str, Any], held: dict[str, Any], path: str) -> None:
        """Those of numbers, as the library keeps to them."""
        given = {name: value for name, value in schema.items() if name in BOUNDS or name == "type"}
        while BOUNDS & given.keys():
            try:
                held |= kept_bounds(given)
                return
            except UnheldBoundError as error:
                keyword, why = error.args
                self._leave_out(keyword, path, why)
                del given[keyword]

    def _least_properties(self, held: dict[str, Any], path: str) -> None:
        """An open object may repeat a key that it does not name, which then is one property."""
        least, required = held.get("minProperties"), held.get("required")
        known = len(required) if isinstance(required, list) else 0
        if held.get("additionalProperties") is not False and isinstance(least, int) and least > known + 1:
            self._leave_out("minProperties", path)
            del held["minProperties"]

    def _take(self, name: str, value: Any, held: dict[str, Any], at: str, depth: int) -> None:
        if name in WELL_FORMED:
            self._check_form(name, value, at)
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
        elif name == "required" and isinstance(value, bool):
            pass  # of draft 3
        elif name == "$anchor":
            pass  # references by it have become pointers
        elif name in _COUNTS:
            held[name] = int(value) if isinstance(value, float) and value.is_integer() else value
        elif HELD[name] == PLAIN:
            held[name] = value
            if name == "enum" and isinstance(value, list):
                self._values += len(value)
                self._check_count(self._values, MAX_ENUM, "values in enum", at)
        else:
            held[name] = self._schemas(name, value, at, depth)

    def _schemas(self, name: str, value: Any, at: str, depth: int) -> Any:
        kind = HELD[name]
        if kind == MAP:
            if not isinstance(value, dict):
                raise wrong(self._param, at, "an object is needed")
            if name in ("properties", "patternProperties"):
                self._properties += len(value)
                self._check_count(len(value), MAX_PROPERTIES, "properties in one object", at)
                self._check_count(self._properties, MAX_ALL_PROPERTIES, "properties", at)
            return {key: self.schema(each, f"{at}/{escaped(key)}", depth + 1) for key, each in value.items()}
        if isinstance(value, list) and (kind == SCHEMAS or name == "items"):
            return [self.schema(each, f"{at}/{index}", depth + 1) for index, each in enumerate(value)]
        if kind == SCHEMAS:
            raise wrong(self._param, at, "a list of schemas is needed")
        return self.schema(value, at, depth + 1)

    def _one_of(self, value: Any, held: dict[str, Any], at: str, depth: int) -> None:
        """As `anyOf`: the same where at most one of the schemas can be met."""
        branches = self._schemas("anyOf", value, at, depth)
        if not told_apart(value, self._root):
            self._leave_out("oneOf", at.rpartition("/")[0])
        held.setdefault("allOf", [])
        held["allOf"] = [*held["allOf"], {"anyOf": branches}]

    def _leave_out(self, keyword: str, path: str, why: str = NOT_POSSIBLE) -> None:
        if self._strict:
            raise not_held(self._param, keyword, path, why)
        self.left_out.append(left_out(keyword, path))

    def _check_form(self, name: str, value: Any, at: str) -> None:
        is_right, wanted = WELL_FORMED[name]
        try:
            right = is_right(value)
        except (TypeError, OverflowError, ValueError):
            right = False
        if not right:
            raise wrong(self._param, at, f"{shown(value)}: {wanted}")

    def _check_count(self, count: int, most: int, what: str, at: str) -> None:
        if count > most:
            raise wrong(self._param, at, f"the schema has more than {most} {what}")


def left_out(keyword: str, path: str) -> str:
    """As headers and the log name a keyword that is not held."""
    return f"{keyword} at {path or '/'}"


def not_held(param: str, keyword: str, path: str, why: str = NOT_POSSIBLE) -> RequestError:
    """A strict schema in `param` has such a keyword."""
    return RequestError(
        f"'{param}' has '{keyword}' at '{path or '/'}': {why}; leave it out, or ask for a schema that is not strict",
        param=param,
        code="unsupported_schema",
    )


def wrong(param: str, path: str, message: str) -> RequestError:
    """A schema in `param` is wrong at `path`."""
    shown = path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}..."
    where = f"'{param}' at '{shown}'" if path else f"'{param}'"
    return RequestError(f"{where}: {message}", param=param, code="invalid_schema")


def shown(value: Any) -> str:
    """A value as errors show it."""
    text = json.dumps(value)
    return text if len(text) <= MAX_PATH else f"{text[:MAX_PATH]}..."


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
