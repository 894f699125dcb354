"""The fields of a request that say what its answer is to be, as one constraint: OpenAI's and vLLM's words.

Nothing here looks into a schema or a grammar: the text worker does, outside the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NoReturn

import msgspec

from weft.base.errors import RequestError
from weft.base.step.structured_outputs import StructuredOutputs
from weft.compute.grammars.constraints import Constraint
from weft.compute.grammars.structured import constraint_of_outputs

LEFT_OUT = "x-weft-schema-left-out"
"""Header of an answer: keywords of its schema that were not held, with their paths."""
MAX_SHOWN = 1024
"""Characters of that header."""


class NamedSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`response_format.json_schema`. Without a schema any object is meant."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None
    """Whether a keyword that no grammar holds is refused; else it is left out, and a header names it."""


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """`response_format`. `schema`: of the type `json_object`, as llama.cpp and hosted engines have it."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    schema: dict[str, Any] | bool | None = None
    json_schema: NamedSchema | None = None
    triggers: list[str] | None = None
    structures: list[dict[str, Any]] | None = None
    format: dict[str, Any] | None = None
    """Of the type `structural_tag`, in vLLM's newer words."""


class Guided(msgspec.Struct, frozen=True, kw_only=True):
    """What completions and chats have in common here."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    json_schema: dict[str, Any] | str | None = None
    """The same as `guided_json`, as llama.cpp and SGLang name it."""
    regex: str | None = None
    """SGLang's name."""
    ebnf: str | None = None
    """A grammar, in SGLang's words."""
    grammar: str | None = None
    """The same in llama.cpp's."""


_KINDS: Mapping[str, Literal["json", "regex", "choice", "grammar"]] = {
    "guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar",
    "json_schema": "json", "regex": "regex", "ebnf": "grammar", "grammar": "grammar",
}  # fmt: skip
"""Fields of a request -> what they hold."""


def constraint_of(asked: Guided, *, open_objects: bool = False) -> Constraint | None:
    """None where any text will do. `open_objects`: as of `ChatForms`. RequestError: two things are asked for, or
    something with nothing in it."""
    found = [*_constraints(asked, open_objects)]
    if len(found) > 1:
        names = " and ".join(f"'{each.param}'" for each in found)
        _refuse(found[1].param, f"{names} both say what the answer is to be; give one of them")
    if asked.guided_whitespace_pattern is not None and asked.guided_json is None:
        _refuse("guided_whitespace_pattern", "'guided_whitespace_pattern' needs 'guided_json'")
    return found[0] if found else None


def left_out_header(left_out: tuple[str, ...]) -> dict[str, str]:
    """The header that names what a grammar does not hold."""
    text = "; ".join(left_out)
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
    return {LEFT_OUT: shown.encode("ascii", "backslashreplace").decode()} if left_out else {}


def _constraints(asked: Guided, open_objects: bool) -> Iterator[Constraint]:
    if asked.response_format is not None:
        yield from _of_format(asked.response_format, not open_objects)
    if asked.structured_outputs is not None:
        yield constraint_of_outputs(asked.structured_outputs)
    for name, kind in _KINDS.items():
        if (value := getattr(asked, name)) is not None:
            space = asked.guided_whitespace_pattern if name == "guided_json" else None
            yield Constraint(kind=kind, value=value, param=name, space=space, space_param="guided_whitespace_pattern")


def _of_format(given: ResponseFormat, closed: bool) -> Iterator[Constraint]:
    if given.type != "json_schema" and given.json_schema is not None:
        _refuse("response_format.json_schema", f"'response_format.json_schema' with the type '{given.type}'")
    if given.type != "structural_tag" and (given.triggers, given.structures, given.format) != (None, None, None):
        _refuse("response_format.type", "'triggers', 'structures' and 'format' are for the type 'structural_tag'")
    if given.type != "json_object" and given.schema is not None:
        why = f"with the type '{given.type}'; that of 'json_schema' is in 'json_schema.schema'"
        _refuse("response_format.schema", f"'response_format.schema' {why}")
    if given.type == "json_object" and given.schema is not None:
        yield Constraint(kind="json", value=given.schema, strict=False, param="response_format.schema", closed=closed)
    elif given.type == "json_object":
        yield Constraint(kind="json_object", param="response_format")
    if given.type == "json_schema":
        if given.json_schema is None:
            _refuse("response_format.json_schema", "'response_format.json_schema' is missing")
        schema = given.json_schema
        if schema.schema is None:
            yield Constraint(kind="json_object", param="response_format.json_schema")
        else:
            param, strict = "response_format.json_schema.schema", bool(schema.strict)
            yield Constraint(kind="json", value=schema.schema, strict=strict, param=param, closed=closed and not strict)
    if given.type == "structural_tag":
        value: Mapping[str, Any] = {"triggers": given.triggers, "structures": given.structures, "format": given.format}
        yield Constraint(kind="structural_tag", value=value, strict=False, param="response_format", closed=closed)


def _refuse(param: str, message: str) -> NoReturn:
    raise RequestError(message, param=param, code="invalid_value")
