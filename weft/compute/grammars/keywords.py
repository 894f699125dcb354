"""Keywords of JSON Schema: which a grammar holds and which none, and what their values are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Those that the library holds; any other is an annotation, as JSON Schema has it."""
SCHEMA, SCHEMAS, MAP, PLAIN = "schema", "list of schemas", "schemas by name", "value"
HELD = {
    "type": PLAIN, "const": PLAIN, "enum": PLAIN, "$ref": PLAIN, "required": PLAIN, "format": PLAIN,
    "minLength": PLAIN, "maxLength": PLAIN, "pattern": PLAIN, "minimum": PLAIN, "maximum": PLAIN,
    "exclusiveMinimum": PLAIN, "exclusiveMaximum": PLAIN, "multipleOf": PLAIN, "minItems": PLAIN,
    "maxItems": PLAIN, "minProperties": PLAIN, "maxProperties": PLAIN, "$anchor": PLAIN, "$id": PLAIN,
    "$schema": PLAIN, "id": PLAIN,
    "additionalProperties": SCHEMA, "additionalItems": SCHEMA, "items": SCHEMA,
    "anyOf": SCHEMAS, "oneOf": SCHEMAS, "allOf": SCHEMAS, "prefixItems": SCHEMAS,
    "properties": MAP, "patternProperties": MAP, "$defs": MAP, "definitions": MAP,
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
_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)


WELL_FORMED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (
        lambda value: {*(value if isinstance(value, list) and value else [value])} <= _TYPES,
        f"one or more of {', '.join(sorted(_TYPES))} is needed",
    ),
    "enum": (lambda value: isinstance(value, list) and len(value) > 0, "a list of one or more values is needed"),
    "required": (
        lambda value: (
            isinstance(value, bool) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
        ),
        "a list of texts is needed",
    ),
    "multipleOf": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e300,
        "a number above 0 is needed",
    ),
    **dict.fromkeys(("$ref", "pattern", "format"), (lambda value: isinstance(value, str), "a text is needed")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number, 0 or more, is needed"),
    ),
}
"""Keywords whose values are checked here: what is wrong there is a mistake, and left out of no schema."""
