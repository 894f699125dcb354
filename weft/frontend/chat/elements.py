"""Arguments as Qwen3-Coder's elements: what their values are, and what a grammar of them holds of a schema.

A value that is a text stands in its element without JSON's quotes, so a terminal holds it; any other is JSON.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from weft.compute.grammars.constraints import json_rule
from weft.compute.grammars.json_schema import escaped, keywords_at
from weft.compute.grammars.keywords import HELD
from weft.compute.grammars.one_of import pointed
from weft.compute.grammars.regexes import literal, quoted, regex_rule, searching
from weft.frontend.chat.tools import Schema

ANY_TEXT = "/(?s:.*)/"
NEW_LINE = "\n"
END = json.dumps("\n</parameter>\n")
"""Of an element."""
WITHOUT_END = r"~/(?s:.*)<\/parameter>(?s:.*)/"
"""No text that has an element's end in it: what reads the answer ends the element there."""
EMPTY = '""'
"""The rule of no text."""
MOST_LENGTH = 1 << 30
"""Characters: no answer has more."""
MOST_REFERENCES = 64
"""References that the terminals of one tool follow."""
ROOT = "root"
_ANY: frozenset[str] = frozenset()
_OF_OBJECTS = (
    "$ref", "const", "enum", "anyOf", "allOf", "patternProperties", "minProperties", "maxProperties",
)  # fmt: skip
"""Keywords of the arguments themselves, which elements do not hold."""
_SAY_LITTLE = frozenset({"type", "$schema", "$id", "id", "$anchor", "$defs", "definitions"})


class ElementValues:
    """The values that `parameters`, a tool's JSON Schema, allows. `left_out`: keyword and path of what the terminals
    so far do not hold."""

    def __init__(self, parameters: Schema) -> None:
        self.left_out: list[tuple[str, str]] = []
        self._root = parameters
        self._kinds: dict[str, frozenset[str]] = {}
        self._references = 0
        properties, required = parameters.get("properties"), parameters.get("required")
        self.members: dict[str, Any] = dict(properties) if isinstance(properties, Mapping) else {}
        self.other: Any = parameters.get("additionalProperties", not self.members)
        """The schema of elements that have no schema of their own; False: there are none."""
        self.required = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        for name in self.required:
            self.members.setdefault(name, self.other)

    def kinds(self, schema: object) -> frozenset[str]:
        """JSON types that a schema inside the parameters allows, as far as it says; nothing: any."""
        if not isinstance(schema, Mapping):
            return _ANY
        said = [kinds for kinds in self._all_kinds(schema) if kinds]
        return frozenset.intersection(*said) if said else _ANY

    def _all_kinds(self, schema: Mapping[str, Any]) -> Iterator[frozenset[str]]:
        """What each keyword says."""
        said = schema.get("type")
        given = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        yield frozenset(kind for kind in given if isinstance(kind, str))
        if "const" in schema:
            yield kinds_of(schema["const"])
        if isinstance(schema.get("enum"), list):
            yield _ANY.union(*map(kinds_of, schema["enum"]))
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list):
                each = [self.kinds(one) for one in schema[word]]
                yield _ANY.union(*each) if all(each) else _ANY
        if isinstance(schema.get("allOf"), list):
            yield from map(self.kinds, schema["allOf"])
        if isinstance(target := schema.get("$ref"), str):
            if target not in self._kinds:
                self._kinds[target] = _ANY  # until it is known: it may refer to itself
                self._kinds[target] = self.kinds(pointed(target, self._root))
            yield self._kinds[target]

    def is_text(self, schema: object) -> bool:
        """Whether every value is a text."""
        return self.kinds(schema) == {"string"}

    def is_any_text(self, schema: object) -> bool:
        """Whether any text will do, read as JSON where it is JSON of a type that the schema allows."""
        kinds = self.kinds(schema)
        return schema is True or (_says_types(schema) and (not kinds or "string" in kinds))

    def terminal(self, schema: object, path: str = "") -> str:
        """Of the texts that a schema inside the parameters allows, in Lark."""
        if not isinstance(schema, Mapping):
            return ANY_TEXT
        parts = [*self._own(schema, path)]
        if isinstance(target := schema.get("$ref"), str):
            self._references += 1
            if self._references <= MOST_REFERENCES:
                parts.append(self.terminal(pointed(target, self._root), path))
            elif self._references == MOST_REFERENCES + 1:
                self.left_out.append(("$ref", path))
        parts += [self.terminal(one, f"{path}/allOf/{at}") for at, one in enumerate(schema.get("allOf", ()))]
        some = [
            f"( {self.terminal(one, f'{path}/anyOf/{at}')} )"
            for at, one in enumerate(schema.get("anyOf", ()))
            if self.kinds(one) in (_ANY, {"string"})
        ]
        parts += [" | ".join(some)] if some else []
        return " & ".join(f"( {part} )" for part in parts) or ANY_TEXT

    def _own(self, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        least, most = min(schema.get("minLength", 0), MOST_LENGTH), schema.get("maxLength", MOST_LENGTH)
        if least or most < MOST_LENGTH:
            yield f"/(?s:.{{{least},{most if most < MOST_LENGTH else ''}}})/"
        if "pattern" in schema:
            if (regex := searching(schema["pattern"])) is None:
                self.left_out.append(("pattern", path))
            else:
                yield regex_rule(regex, ascii="dw")
        if "format" in schema:
            self.left_out.append(("format", path))
        for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
            if values is not None:
                yield " | ".join(json.dumps(value, ensure_ascii=False) for value in values if isinstance(value, str))

    def alone(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A schema inside the parameters as one of its own: its references lead into a copy of the parameters."""
        if not any(keywords_at(schema, "$ref")):
            return dict(schema)
        own, whole = copy.deepcopy(dict(schema)), copy.deepcopy(dict(self._root))
        for part in (own, whole):
            for _, inner in keywords_at(part, "$ref"):
                if str(inner["$ref"])[:2] in ("#", "#/"):
                    inner["$ref"] = f"#/$defs/{ROOT}{inner['$ref'][1:]}"
        return own | {"$defs": {ROOT: whole}}


class ElementRules:
    """Writes the rules of elements to `rules`, which have TEXT."""

    def __init__(self, parameters: Schema, rules: dict[str, str]) -> None:
        self._values, self._rules = ElementValues(parameters), rules

    def written(self, name: str) -> str:
        """Those of the schema's properties in its order, then others where it allows them."""
        values, rules = self._values, self._rules
        rules["PARAMETER"] = f"TEXT & {WITHOUT_END}"
        rules["parameter_text[lazy]"] = f"PARAMETER {END}"
        made = []
        for number, (key, schema) in enumerate(values.members.items()):
            rule = f"{name}_{number}"
            rules[rule] = f"{literal(f'<parameter={key}>{NEW_LINE}')} {self._value(schema, rule)}"
            made.append(rule if key in values.required else f"{rule}?")
        if values.other is not False:
            taken = "|".join(map(quoted, values.members))
            key = f"{name}_KEY".upper()
            rules[key] = r"/[^>\n]{1,64}/" + (f" & ~/{taken}/" if taken else "")
            rules[f"{key}_TAG"] = f'"<parameter=" {key} ">\\n"'
            made.append(f"( {key}_TAG {self._value(values.other, f'{name}_other')} )*")
        return " ".join(made) or EMPTY

    def _value(self, schema: Any, rule: str) -> str:
        """What stands after an element's name, up to the next element."""
        if self._values.is_any_text(schema):
            return "parameter_text"
        if not self._values.is_text(schema):
            return f"{json_rule(self._values.alone(schema))} {END}"
        self._rules[rule.upper()] = f"( {self._values.terminal(schema)} ) & {WITHOUT_END}"
        self._rules[f"{rule}_text[lazy]"] = f"{rule.upper()} {END}"
        return f"{rule}_text"


def left_out_of(parameters: Schema) -> list[tuple[str, str]]:
    """Keyword and path of what a grammar of elements does not hold, of what one of JSON does."""
    values = ElementValues(parameters)
    for key, schema in values.members.items():
        if values.is_text(schema):
            values.terminal(schema, f"/properties/{escaped(key)}")
    if values.is_text(values.other):
        values.terminal(values.other, "/additionalProperties")
    return [(word, "/") for word in _OF_OBJECTS if word in parameters] + values.left_out


def kinds_of(value: object) -> frozenset[str]:
    """The JSON types of a value."""
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset({"integer", "number"})
    kinds = {str: "string", float: "number", dict: "object", list: "array", type(None): "null"}
    return frozenset({kinds[type(value)]})


def _says_types(schema: object) -> bool:
    """Whether a schema speaks of types alone."""
    if not isinstance(schema, Mapping):
        return False
    words = (schema.keys() & HELD.keys()) - _SAY_LITTLE
    return not words or (words == {"anyOf"} and all(map(_says_types, schema["anyOf"])))
