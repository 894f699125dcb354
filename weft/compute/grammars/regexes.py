"""Regular expressions of requests as the grammar library takes them: Rust's, but for classes, which are ASCII's.

So `\\d` is `[0-9]` and `\\w` is `[0-9A-Za-z_]`, as in JSON Schema and in the grammar library that vLLM uses first.
"""

from __future__ import annotations

import json
import re

import llguidance

BLANKS = r"[ \t\n\r]"
"""JSON's white space."""
_ANY = "(?s:.*)"
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""An escaped character, a class, or another character."""
_ASSERTIONS = frozenset({"^", "$", r"\b", r"\B", r"\A", r"\z"})


def regex_rule(regex: str, ascii: str = "dws") -> str:
    """The texts that `regex` matches as a whole, as a part of a rule or terminal. `ascii`: classes that are ASCII's."""
    return f"/{llguidance.regex_to_lark(regex, ascii)}/" if regex else '""'


def searching(pattern: str) -> str | None:
    """A regular expression of the whole of each text in which `pattern` matches somewhere. None: its anchors stand
    elsewhere than at the ends of its alternatives."""
    alternatives: list[list[str]] = [[]]
    depth = 0
    for part in _PARTS.findall(pattern):
        depth += (part == "(") - (part == ")")
        if part == "|" and depth == 0:
            alternatives.append([])
        else:
            alternatives[-1].append(part)
    made = []
    for parts in alternatives:
        begins, ends = parts[:1] == ["^"], parts[-1:] == ["$"]
        body = parts[begins : len(parts) - ends]
        if _ASSERTIONS & {*body}:
            return None
        made.append(f"{'' if begins else _ANY}(?:{''.join(body)}){'' if ends else _ANY}")
    return "|".join(made)


def blanks_of(pattern: str) -> str:
    """A regular expression of white space in which `\\s` is JSON's."""
    return re.sub(r"\\(.)", lambda found: BLANKS if found[1] == "s" else found[0], pattern, flags=re.DOTALL)


def literal(text: str) -> str:
    """A text as a part of a rule."""
    return json.dumps(text, ensure_ascii=False)


def quoted(text: str) -> str:
    """A text as a part of a regular expression between slashes."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text)
