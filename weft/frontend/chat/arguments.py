"""A call's arguments while they come: JSON passes through as it is, Qwen3-Coder's elements become JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

import msgspec

from weft.frontend.chat.elements import ElementValues, kinds_of
from weft.frontend.chat.patterns import BLANKS
from weft.frontend.chat.tools import Schema

_OPEN, _CLOSE, _DONE = "<parameter=", "</parameter>", "</function>"
_LONGEST_KEY = 256


class ArgumentsReader(Protocol):
    """Reads arguments piece by piece."""

    done: bool
    """They are whole; what follows is no part of them."""

    def push(self, text: str) -> tuple[str, str]:
        """(JSON text that is final, what was not taken). The second is empty until the arguments are whole."""

    def finish(self, *, cut: bool) -> str:
        """The answer ends here: what there is of them beyond what was returned. `cut`: it was cut off."""


class JsonArguments:
    """One JSON object, in the model's own characters."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._in_string = self._escaped = False

    def push(self, text: str) -> tuple[str, str]:
        """Up to the bracket that closes the first."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.done = True
                    return text[: at + 1], text[at + 1 :]
        return text, ""

    def finish(self, *, cut: bool) -> str:
        """All has been returned."""
        return ""


class XmlArguments:
    """`<parameter=NAME>` elements. A value is text where the tool's schema wants text, and then streams; else it is
    JSON where it is JSON of a type that the schema allows, else text."""

    def __init__(self, parameters: Schema) -> None:
        self.done = False
        self._values = ElementValues(parameters)
        self._held = ""
        self._key: str | None = None
        self._begun = False  # a value's own text
        self._searched = 0  # characters of what is held in which no value ends
        self._parameters = 0

    def push(self, text: str) -> tuple[str, str]:
        """Elements as the members of one object."""
        self._held += text
        made: list[str] = []
        while True:
            step = self._between() if self._key is None else self._value()
            if step is None:
                return "".join(made), ""
            made.append(step)
            if self.done:
                left, self._held = self._held, ""
                return "".join(made), left

    def finish(self, *, cut: bool) -> str:
        """What is held of a value that streams, but for the beginning of its end where that was cut off; a value that
        does not stream is not known before its end."""
        if cut or self._key is None or not self._is_text(self._key):
            return ""
        held, self._held = self._held.removeprefix("\n") if not self._begun else self._held, ""
        return _escaped(held)

    def _between(self) -> str | None:
        """Before an element or the end; None: too little has come to say."""
        held = self._held.lstrip(BLANKS)
        if held.startswith(_OPEN):
            end = held.find(">")
            if end >= 0 or len(held) <= len(_OPEN) + _LONGEST_KEY:
                return None if end < 0 else self._begin(held[len(_OPEN) : end], held[end + 1 :])
        elif len(held) < max(len(_OPEN), len(_DONE)) and (_OPEN.startswith(held) or _DONE.startswith(held)):
            self._held = held
            return None
        self.done, self._held = True, held
        return "}" if self._parameters else "{}"

    def _begin(self, key: str, rest: str) -> str:
        self._key, self._held, self._begun = key, rest, False
        self._parameters += 1
        opening = "{" if self._parameters == 1 else ", "
        return f"{opening}{json.dumps(key, ensure_ascii=False)}: " + ('"' if self._is_text(key) else "")

    def _value(self) -> str | None:
        """More of a value; None: nothing is final yet."""
        assert self._key is not None
        streams = self._is_text(self._key)
        if not self._begun and streams and not self._drop_first_line_end():
            return None
        end = self._held.find(_CLOSE, max(0, self._searched - len(_CLOSE)))
        self._searched = len(self._held) if end < 0 else 0
        if end >= 0:
            value, self._held = self._held[:end].removesuffix("\n"), self._held[end + len(_CLOSE) :]
            key, self._key = self._key, None
            return _escaped(value) + '"' if streams else self._typed(key, value.removeprefix("\n"))
        if not streams:
            return None
        keep, self._searched = _possible_start(self._held, "\n" + _CLOSE), 0
        value, self._held = self._held[:keep], self._held[keep:]
        return _escaped(value) or None

    def _drop_first_line_end(self) -> bool:
        """A value's text begins on the line after its element's name."""
        if not self._held:
            return False
        self._held, self._begun = self._held.removeprefix("\n"), True
        return True

    def _is_text(self, key: str) -> bool:
        return self._kinds(key) == {"string"}

    def _kinds(self, key: str) -> frozenset[str]:
        """JSON types that a value may have, nothing: any. Text for an element without a schema."""
        schema = self._values.members.get(key, self._values.other)
        known = key in self._values.members or isinstance(schema, Mapping)
        return self._values.kinds(schema) if known else frozenset({"string"})

    def _typed(self, key: str, value: str) -> str:
        text = value.strip(BLANKS)
        try:
            found = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return json.dumps(value, ensure_ascii=False)
        allowed = self._kinds(key)
        return text if not allowed or kinds_of(found) & allowed else json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _possible_start(text: str, wanted: str) -> int:
    """Where the longest end of `text` begins that `wanted`, or `wanted` without its first character, may begin with."""
    for at in range(max(0, len(text) - len(wanted) + 1), len(text)):
        if wanted.startswith(text[at:]) or wanted[1:].startswith(text[at:]):
            return at
    return len(text)
