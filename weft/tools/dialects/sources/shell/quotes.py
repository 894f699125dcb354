"""Where quotes and $( ) of a shell end, one inside the other."""

from __future__ import annotations

import re

_SIMPLE = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
_DEPTH = 20
_LONGEST = 2000


def double_end(text: str, at: int) -> int | None:
    """The quote that ends what began before `at`; quotes inside $( ) are of their own."""
    end = _quoted(text, at, 0)
    if end is not None:
        return end
    match = _SIMPLE.match(text, at)
    return match.end() - 1 if match else None


def balanced(text: str, start: int, closing: str) -> int | None:
    """What ends a ` or a bracket that began before `start`, within what one word may be long."""
    if closing == "`":
        end = text.find("`", start)
        return None if end < 0 or "\n" in text[start:end] else end
    exact = _substituted(text[: start + _LONGEST], start, 0) if closing == ")" else None
    if exact is not None:
        return exact
    depth = 0
    for at in range(start, min(len(text), start + _LONGEST)):
        if depth == 0 and text.startswith(closing, at):
            return at
        depth += {"(": 1, ")": -1}.get(text[at], 0)
    return None


def _quoted(text: str, at: int, depth: int) -> int | None:
    while at < len(text) and depth < _DEPTH:
        if text[at] == '"':
            return at
        if text.startswith("$(", at) and not text.startswith("$((", at):
            end = _substituted(text, at + 2, depth + 1)
            if end is None:
                return None
            at = end
        at += 2 if text[at] == "\\" else 1
    return None


def _substituted(text: str, at: int, depth: int) -> int | None:
    opened = 0
    while at < len(text) and depth < _DEPTH:
        char = text[at]
        if char == ")" and opened == 0:
            return at
        opened += {"(": 1, ")": -1}.get(char, 0)
        if char in "\"'":
            end = _quoted(text, at + 1, depth + 1) if char == '"' else text.find("'", at + 1)
            if end is None or end < 0:
                return None
            at = end
        at += 2 if char == "\\" else 1
    return None
