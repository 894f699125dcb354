"""What a request wants its answer to be, as one grammar: a schema, a regular expression, a choice, a grammar, tags.

Every form becomes Lark text, so that another grammar can hold it as one of its parts. RequestError names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from weft.base.errors import RequestError
from weft.compute.grammars.base import OWN_RULES, GrammarError
from weft.compute.grammars.gbnf.grammar import GbnfError
from weft.compute.grammars.gbnf.lark import lark_of_gbnf
from weft.compute.grammars.json_schema import MAX_ENUM, SPACE, HeldSchema, held_schema
from weft.compute.grammars.refused import reason_of, without_refused
from weft.compute.grammars.regexes import BLANKS, blanks_of, regex_rule
from weft.compute.grammars.structural_tag import StructuralTagError, StructuralTags

MAX_BYTES = 64 << 10
"""Of a grammar, an expression or all choices."""
RULE_OF_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
HEADER = '%llguidance {"no_forcing": true}\n'
"""The model itself chooses the tokens of a text that can only be one: forced ones would often not be its own."""
ANY_OBJECT = {"type": "object"}


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: a key of `KINDS`. `strict`: a schema's keyword that no grammar holds is refused. `param`: the field that
    errors name. `space`: a regular expression of the white space between two tokens of JSON, empty for none, None for
    the usual; `space_param`: its field. `closed`: objects have no properties but those that their schema names."""

    kind: str
    value: Any = None
    strict: bool = True
    param: str = "structured_outputs"
    space: str | None = None
    space_param: str = ""
    closed: bool = False


class Grammar(msgspec.Struct, frozen=True):
    """`text`: Lark. `left_out`: keywords of schemas that it does not hold, with their paths. `notes`: for the log."""

    text: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """How a grammar is tried: `compiles` raises GrammarError for a text that cannot be compiled; `added`: ids of added
    tokens by their text."""

    compiles: Callable[[str], None]
    added: Mapping[str, int]


def grammar_of(constraint: Constraint, check: Check) -> Grammar:
    """Checked: it compiles within bounds, and allows a first token."""
    made = KINDS.get(constraint.kind)
    if made is None:
        _refuse(constraint, f"{constraint.kind!r}: legal: {', '.join(KINDS)}")
    if constraint.space:
        constraint = msgspec.structs.replace(constraint, space=_space(constraint, check))
    return made(constraint, check)


def _space(constraint: Constraint, check: Check) -> str:
    """The white space that is asked for. RequestError: it is no regular expression, or may be something else."""
    space, named = blanks_of(constraint.space or ""), msgspec.structs.replace(constraint, param=constraint.space_param)
    rule = regex_rule(space)
    _tried(f"{HEADER}start: {rule}", named, check)
    try:
        check.compiles(f"{HEADER}start: OTHER\nOTHER: {rule} & ~/{BLANKS}*/")
    except GrammarError:  # nothing else matches
        return space
    _refuse(named, r"it matches other characters than white space: blanks, \t, \n and \r")


def json_rule(schema: Any, space: str | None = None) -> str:
    """A held schema as a part of a rule; `space` as of `Constraint`."""
    flexible = {"whitespace_flexible": False} if space == "" else {"whitespace_pattern": space or SPACE}
    guided = {**schema, "x-guidance": flexible} if isinstance(schema, dict) else schema
    return f"%json {json.dumps(guided)}"


def literal(text: str, added: Mapping[str, int]) -> str:
    """`text` as a part of a rule; added tokens that stand in it are tokens."""
    parts: list[str] = []
    while text:
        found = [(at, -len(token), token) for token in added if (at := text.find(token)) >= 0]
        at, _, token = min(found, default=(len(text), 0, ""))
        if at:
            parts.append(json.dumps(text[:at]))
        if token:
            parts.append(f"<[{added[token]}]>")
        text = text[at + len(token) :]
    return " ".join(parts) or '""'


def _json(constraint: Constraint, check: Check) -> Grammar:
    """A schema, as an object or as its text."""
    schema = constraint.value
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            _refuse(constraint, f"it is no JSON: {error}")
    held = _held(schema, constraint, check)
    return Grammar(HEADER + "start: " + json_rule(held.schema, constraint.space), tuple(held.left_out))


def _held(schema: Any, constraint: Constraint, check: Check) -> HeldSchema:
    """A schema that compiles."""
    if constraint.closed:
        try:
            return _held_as(schema, constraint, check, closed=True)
        except RequestError:  # closing may be what no document meets
            pass
    return _held_as(schema, constraint, check, closed=False)


def _held_as(schema: Any, constraint: Constraint, check: Check, *, closed: bool) -> HeldSchema:
    held = held_schema(schema, constraint.param, strict=constraint.strict, closed=closed)

    def refused(part: Any) -> str | None:
        try:
            check.compiles(HEADER + "start: " + json_rule(part, constraint.space))
        except GrammarError as error:
            return str(error).removeprefix("failed to compile JSON schema: ")
        return None

    return held if refused(held.schema) is None else without_refused(held, refused, constraint.param, constraint.strict)


def _json_object(constraint: Constraint, check: Check) -> Grammar:
    """Any object."""
    return _json(msgspec.structs.replace(constraint, value=ANY_OBJECT), check)


def _regex(constraint: Constraint, check: Check) -> Grammar:
    """A regular expression, which the whole answer matches."""
    regex = _text(constraint)
    return _tried(HEADER + f"start: {regex_rule(regex)}", constraint, check)


def _choice(constraint: Constraint, check: Check) -> Grammar:
    """One of some texts."""
    options = constraint.value
    if not isinstance(options, list) or not options or not all(isinstance(one, str) and one for one in options):
        _refuse(constraint, "a list of one or more texts is needed")
    if len(options) > MAX_ENUM or sum(map(len, options)) > MAX_BYTES:
        _refuse(constraint, f"legal: at most {MAX_ENUM} texts of {MAX_BYTES} characters together")
    rule = " | ".join(json.dumps(one) for one in dict.fromkeys(options))
    return _tried(HEADER + f"start: CHOICE\nCHOICE: {rule}", constraint, check)


def _grammar(constraint: Constraint, check: Check) -> Grammar:
    """Lark, or GBNF (`root ::= ...`)."""
    text = _text(constraint)
    notes: tuple[str, ...] = ()
    if RULE_OF_GBNF.search(text):
        try:
            written = lark_of_gbnf(text, check.added)
        except GbnfError as error:
            _refuse(constraint, f"it is no GBNF: {error}")
        text = written.text
        if written.by_character:
            notes = (f"{written.by_character} parts of the grammar are held character by character: masks take longer",)
    if not text.lstrip().startswith("%llguidance"):
        text = HEADER + text
    return msgspec.structs.replace(_tried(f"{text}\n{OWN_RULES}\n", constraint, check), notes=notes)


def _structural_tag(constraint: Constraint, check: Check) -> Grammar:
    """vLLM's, in its older and its newer words."""
    given = _object_of(constraint)
    left_out: list[str] = []

    def json_of(schema: Any) -> str:
        held = _held(schema, constraint, check)
        left_out.extend(held.left_out)
        return json_rule(held.schema, constraint.space)

    writer = StructuralTags(json_of, lambda text: literal(text, check.added), check.added)
    try:
        newer = given.get("format") is not None
        text = writer.of_format(given["format"]) if newer else writer.of_structures(given)
    except (StructuralTagError, GbnfError) as error:
        _refuse(constraint, str(error))
    return msgspec.structs.replace(_tried(HEADER + text, constraint, check), left_out=tuple(left_out))


def _object_of(constraint: Constraint) -> dict[str, Any]:
    value = constraint.value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            _refuse(constraint, f"it is no JSON: {error}")
    if not isinstance(value, dict):
        _refuse(constraint, "an object is needed")
    return value


def _text(constraint: Constraint) -> str:
    value = constraint.value
    if not isinstance(value, str) or not value:
        _refuse(constraint, "a text is needed")
    if len(value) > MAX_BYTES:
        _refuse(constraint, f"it has {len(value)} characters; legal: at most {MAX_BYTES}")
    return value


def _tried(text: str, constraint: Constraint, check: Check) -> Grammar:
    try:
        check.compiles(text)
    except GrammarError as error:
        _refuse(constraint, reason_of(str(error)))
    return Grammar(text)


def _refuse(constraint: Constraint, message: str) -> NoReturn:
    raise RequestError(f"'{constraint.param}': {message}", param=constraint.param, code="invalid_grammar")


KINDS: dict[str, Callable[[Constraint, Check], Grammar]] = {
    "json": _json,
    "json_object": _json_object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "structural_tag": _structural_tag,
}
