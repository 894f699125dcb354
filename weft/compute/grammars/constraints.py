"""What a request wants its answer to be, as one grammar: a schema, a regular expression, a choice, a grammar, tags.

Every form becomes Lark text, so that another grammar can hold it as one of its parts. RequestError names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from llguidance.gbnf_to_lark import gbnf_to_lark

from weft.base.errors import RequestError
from weft.compute.grammars.base import OWN_RULES, GrammarError
from weft.compute.grammars.json_schema import MAX_BYTES, MAX_ENUM, SPACE, HeldSchema, held_schema, without_refused
from weft.compute.grammars.regexes import BLANKS, blanks_of, regex_rule

RULE_OF_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
HEADER = '%llguidance {"no_forcing": true}\n'
"""The model itself chooses the tokens of a text that can only be one: forced ones would often not be its own."""
ANY_OBJECT = {"type": "object"}
MAX_TAGS = 256


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
    """`text`: Lark. `left_out`: keywords of schemas that it does not hold, with their paths."""

    text: str
    left_out: tuple[str, ...] = ()


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
    held = held_schema(schema, constraint.param, strict=constraint.strict, closed=constraint.closed)

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
    if RULE_OF_GBNF.search(text):
        try:
            text = gbnf_to_lark(text)
        except Exception as error:  # the library raises plain ones for what it cannot read
            _refuse(constraint, f"it is no GBNF: {error}")
    if not text.lstrip().startswith("%llguidance"):
        text = HEADER + text
    return _tried(f"{text}\n{OWN_RULES}\n", constraint, check)


@dataclass(frozen=True, slots=True)
class _Tag:
    begin: str
    schema: Any
    end: str


def _structural_tag(constraint: Constraint, check: Check) -> Grammar:
    """vLLM's: free text, in which a trigger begins one of the structures."""
    given = _object_of(constraint)
    triggers, structures = given.get("triggers"), given.get("structures")
    if not isinstance(triggers, list) or not triggers or not all(isinstance(each, str) and each for each in triggers):
        _refuse(constraint, "'triggers': a list of one or more texts is needed")
    if not isinstance(structures, list) or not structures or len(structures) + len(triggers) > MAX_TAGS:
        _refuse(constraint, f"'structures': a list of 1 to {MAX_TAGS} structures is needed")
    tags = [_tag(each, f"structures[{index}]", constraint) for index, each in enumerate(structures)]
    left_out: list[str] = []
    rules, heads = ["TEXT: /(.|\\n)*/"], []
    for number, trigger in enumerate(triggers):
        mine = [tag for tag in tags if _trigger_of(tag, triggers) == trigger]
        if not mine:
            continue
        rests = []
        for tag in mine:
            held = _held(tag.schema, constraint, check)
            left_out += held.left_out
            rests.append(
                f"{literal(tag.begin[len(trigger) :], check.added)} {json_rule(held.schema, constraint.space)}"
                f" {literal(tag.end, check.added)}"
            )
        rules.append(f"head_{number}{_lazily(trigger, check.added)}")
        rules.append(f"tag_{number}: head_{number} ({' | '.join(rests)})")
        heads.append(f"tag_{number}")
    orphan = next((tag for tag in tags if _trigger_of(tag, triggers) is None), None)
    if orphan is not None:
        _refuse(constraint, f"'begin' {orphan.begin[:40]!r} begins with none of the triggers")
    text = HEADER + f"start: ({' | '.join(heads)})* TEXT\n" + "\n".join(rules)
    return msgspec.structs.replace(_tried(text, constraint, check), left_out=tuple(left_out))


def _lazily(trigger: str, added: Mapping[str, int]) -> str:
    """The rest of a rule for free text up to a trigger."""
    written = literal(trigger, added)
    return f": TEXT {written}" if written.startswith("<") else f"[lazy]: TEXT {written}"


def _trigger_of(tag: _Tag, triggers: Sequence[str]) -> str | None:
    return next((trigger for trigger in triggers if tag.begin.startswith(trigger)), None)


def _tag(given: Any, at: str, constraint: Constraint) -> _Tag:
    if not isinstance(given, dict) or not isinstance(given.get("begin"), str) or not isinstance(given.get("end"), str):
        _refuse(constraint, f"'{at}': an object with the texts 'begin' and 'end' and a 'schema' is needed")
    return _Tag(given["begin"], given.get("schema", True), given["end"])


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
        _refuse(constraint, str(error))
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
