"""Which request fields are understood, which are harmless to leave aside, which are refused by name.

Nothing is ignored silently: a field is in one of the tables of `fields.toml` or it is unknown, and an unknown field is
refused with the nearest known name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from weft.base.data_files import read_toml
from weft.base.errors import RequestError


class _Tables(msgspec.Struct, frozen=True):
    left_aside: frozenset[str]
    not_supported: dict[str, tuple[str, ...]]
    same_as_absent: dict[str, tuple[object, ...]]


class FieldTables:
    """The tables of an API's `fields.toml`, in its package."""

    def __init__(self, package: str) -> None:
        self._tables = read_toml(package, "fields.toml", _Tables)
        self.left_aside = self._tables.left_aside
        self.not_supported = {name: reason for reason, names in self._tables.not_supported.items() for name in names}

    def known(self, body: Mapping[str, Any], supported: frozenset[str]) -> dict[str, Any]:
        """The supported fields of a request's body that are not null. RequestError: one cannot be served."""
        kept: dict[str, Any] = {}
        for name, value in body.items():
            if name in supported:
                if value is not None:
                    kept[name] = value
            elif name in self.not_supported:
                if value is not None and not self._same(name, value):
                    raise RequestError(
                        f"'{name}' is not supported: weft has no {self.not_supported[name]}",
                        param=name,
                        code="unsupported_parameter",
                    )
            elif name not in self.left_aside:
                raise _unknown(name, supported)
        return kept

    def _same(self, name: str, value: object) -> bool:
        plain = self._tables.same_as_absent.get(name, ())
        return any(type(value) is type(one) and value == one for one in plain)


FIELDS = FieldTables("weft.frontend.server.openai")
"""Of chats, completions and the tokenizer's routes."""


def _unknown(name: str, supported: frozenset[str]) -> RequestError:
    shown = name if len(name) <= 64 else name[:61] + "..."
    near = difflib.get_close_matches(name[:64], sorted(supported), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return RequestError(f"unknown field '{shown}'{hint}", param=shown, code="unknown_parameter")
