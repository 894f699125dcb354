"""Values of flags: whole numbers, JSON, placeholders and variables that keep them open."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Literal

from weft.tools.dialects.base import Draft, Word
from weft.tools.dialects.sources.literals import literal

FlagKind = Literal["int", "float", "str", "switch", "boolean", "json", "list", "maybe"]
"""switch: no value; boolean: --x and --no-x; list: one or more words; maybe: a value or none."""
Value = int | float | str | bool | list[object] | dict[str, object] | None

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_READABLE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_SCALE = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PLACEHOLDER = re.compile(
    r"<([^<>]+)>|\$\{?([A-Za-z_]\w*)\}?|\{\{?\s*([\w.]+)\s*\}?\}|\[([A-Za-z_]\w*)\]|([A-Z][A-Z0-9_]*)"
    r"|(\.\.\.|\u2026|\?+|[xXnN])"
)


def open_name(text: str) -> str | None:
    """The name in a placeholder where a number should stand: <N>, $TP, {tp}, TP, ...; None when it is none."""
    match = _PLACEHOLDER.fullmatch(text.strip())
    return next((group for group in match.groups() if group), None) if match else None


def read_value(
    kind: FlagKind, name: str, path: tuple[str, ...], values: Sequence[Word], word: Word, draft: Draft
) -> tuple[Value, tuple[str, ...]]:
    """The value of a flag and the variables it depends on; a wrong one is refused and gives (None, ())."""
    variables = tuple(variable for value in values for variable in value.variables)
    if kind in ("switch", "boolean"):
        return _switch(name, values, word, draft), ()
    if kind == "maybe" and not values:
        return True, ()
    if not values:
        draft.refuse(f"{name} needs a value", (), word.where)
        return None, ()
    text = values[0].text
    if kind == "list":
        return [each.text for each in values], ()
    if kind == "json":
        return _json(name, path, text, variables, word, draft)
    if kind in ("int", "float"):
        return _number(kind, name, text, variables, word, draft)
    return text, ()


def _switch(name: str, values: Sequence[Word], word: Word, draft: Draft) -> bool:
    value = not name.startswith("--no-")
    if values:
        draft.note("warning", "switch-value", f"{name} takes no value; {values[0].text} was read as meant", word.where)
        value = value == (values[0].text.lower() in ("true", "1", "yes", "on"))
    return value


def _number(
    kind: str, name: str, text: str, variables: tuple[str, ...], word: Word, draft: Draft
) -> tuple[Value, tuple[str, ...]]:
    if not variables:
        found = text if _plain(text) == _plain(name) else open_name(text)
        variables = (found,) if found else ()
    if variables:
        settings = draft.context.settings
        given = [settings[key] for key in (*variables, name, name.lstrip("-")) if key in settings]
        if not given:
            return None, variables
        text = given[0]
    if kind == "int" and _INTEGER.fullmatch(text) and len(text) < 19:
        return int(text), ()
    if kind == "float" and _NUMBER.fullmatch(text):
        return float(text), ()
    readable = _READABLE.fullmatch(text)
    if readable and len(text) < 19:
        return int(float(readable[1]) * _SCALE[readable[2]]), ()
    wanted = "a whole number" if kind == "int" else "a number"
    draft.refuse(f"{name} {text!r}: not {wanted}", (), word.where)
    return None, ()


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()


def _json(
    name: str, path: tuple[str, ...], text: str, variables: tuple[str, ...], word: Word, draft: Draft
) -> tuple[Value, tuple[str, ...]]:
    if not path:
        return load_json(name, text, word, draft), ()
    inner: object = text if open_name(text) or variables else scalar(text)
    for key in reversed(path):
        inner = {key.rstrip("+"): [inner] if key.endswith("+") else inner}
    return inner if isinstance(inner, dict) else None, ()


def scalar(text: str) -> object:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def load_json(name: str, text: str, word: Word, draft: Draft) -> Value:
    """A JSON argument; a Python literal and trailing commas are read with a note, other mistakes are refused."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return _checked(json.loads(text, object_pairs_hook=lambda pairs: _unique(name, pairs, word, draft)))
    except json.JSONDecodeError as error:
        first = error
    except RecursionError:
        draft.refuse(f"{name}: the JSON is nested too deeply", (), word.where)
        return None
    except ValueError:  # more digits than Python reads
        draft.refuse(f"{name}: the JSON holds a number of too many digits", (), word.where)
        return None
    mended = re.sub(r",(\s*[}\]])", r"\1", re.sub(r"(?m)(^|[\s,{\[])(?://|#)[^\n]*$", r"\1", text))
    for reader in (json.loads, literal):
        try:
            value = _checked(reader(mended))
        except (ValueError, RecursionError):
            continue
        place = f"line {first.lineno}, column {first.colno} of the value"
        draft.note("warning", "json", f"{name} is not strict JSON ({first.msg}: {place}); read as meant", word.where)
        return value
    bare = re.sub(r"\$\{\w+\}|\$\w+|<[^<>\"]+>", lambda found: json.dumps(found[0]), mended)
    try:
        return _checked(json.loads(bare))
    except (ValueError, RecursionError):
        draft.refuse(f"{name}: {first.msg} in line {first.lineno}, column {first.colno} of the JSON", (), word.where)
        return None


def _checked(value: object) -> Value:
    return value if isinstance(value, (dict, list, str, int, float, bool)) else None


def _unique(name: str, pairs: list[tuple[str, object]], word: Word, draft: Draft) -> dict[str, object]:
    """An object of JSON; a key that stands twice with two values is a conflict."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            draft.refuse(f"{name}: {key} is given twice, as {found[key]} and as {value}", (), word.where)
        found[key] = value
    return found
