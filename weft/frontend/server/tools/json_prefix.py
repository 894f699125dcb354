"""The JSON object that the text of a call's arguments is, or begins with."""

from __future__ import annotations

import json
from typing import Any


def object_so_far(text: str) -> dict[str, Any]:
    """Of a call that was cut off: the members that are whole, with what is open closed."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _closed(text)
    return found if isinstance(found, dict) else {}


def _closed(text: str) -> Any:
    """The longest beginning that can be closed: each place where a value has ended is one, the last first."""
    for end, closing in reversed(_ends(text)):
        try:
            return json.loads(text[:end] + closing)
        except (ValueError, RecursionError):
            continue  # a name without a value
    return {}


def _ends(text: str) -> list[tuple[int, str]]:
    """The last places where a value may have ended, each with the brackets that close what is open there."""
    open_, in_string, escaped = "", False, False
    found: list[tuple[int, str]] = []
    for at, character in enumerate(text):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            open_ = ("}" if character == "{" else "]") + open_
            found.append((at + 1, open_))
        elif character in "}]":
            open_ = open_[1:]
            found.append((at + 1, open_))
        elif character == ",":
            found.append((at, open_))
        del found[:-2]
    return found
