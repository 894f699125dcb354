"""The table of request fields: each path, its APIs, what becomes of it, and why.

Fields of an API's records are heeded; other rows stand in `fields.toml`. A field in no row is left out, unless it is
spelt like one that is heeded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import inspect

from weft.base.data_files import read_toml
from weft.base.errors import RequestError
from weft.frontend.server.fields.notes import Notes

Verdict = Literal["heeded", "without effect", "refused"]
ApiName = Literal["chat", "completions", "tokenizer", "responses", "messages"]
Shape = Mapping[str, Any]
"""Fields of a record -> the shape of the record inside, or None where a value is data."""

LIKE = 0.85
"""Ratio of letters in common above which a name is taken for a misspelt one: 'temprature', not 'top_a' for 'top_p'."""
MAX_NAME = 64


class FieldRow(msgspec.Struct, frozen=True):
    """`taken`: values of a refused field that ask for what happens anyway."""

    apis: tuple[ApiName, ...]
    path: str
    verdict: Verdict
    reason: str
    taken: tuple[object, ...] = ()


class _Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    apis: tuple[ApiName, ...]
    verdict: Verdict
    reason: str
    paths: tuple[str, ...]
    taken: dict[str, tuple[object, ...]] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: list[_Group]


@cache
def written_rows() -> list[FieldRow]:
    """Those of `fields.toml`."""
    return [
        FieldRow(group.apis, path, group.verdict, group.reason, group.taken.get(path, ()))
        for group in read_toml("weft.frontend.server.fields", "fields.toml", _File).rows
        for path in group.paths
    ]


@cache
def shape_of(record: type[msgspec.Struct]) -> Shape:
    """The fields of a record, and of the records inside it."""
    shape: Shape = _shape(inspect.type_info(record)) or {}
    return shape


def _shape(kind: inspect.Type) -> Shape | None:
    match kind:
        case inspect.Metadata(type=inner) | inspect.ListType(item_type=inner):
            return _shape(inner)
        case inspect.UnionType(types=kinds):
            return next((found for each in kinds if (found := _shape(each)) is not None), None)
        case inspect.StructType(fields=fields):
            return {field.encode_name: _shape(field.type) for field in fields}
    return None


def paths_of(shape: Shape, before: str = "") -> Iterator[str]:
    """With dots where they lie inside another field."""
    for name, inner in shape.items():
        yield before + name
        if inner is not None:
            yield from paths_of(inner, f"{before}{name}.")


class FieldTable:
    """The rows of one API."""

    def __init__(self, api: ApiName) -> None:
        self._rows = {row.path: row for row in written_rows() if api in row.apis}

    @property
    def left_aside(self) -> frozenset[str]:
        """Fields of a body that are accepted and change nothing."""
        return frozenset(
            path for path, row in self._rows.items() if row.verdict == "without effect" and "." not in path
        )

    def known(self, body: Mapping[str, Any], record: type[msgspec.Struct], notes: Notes) -> dict[str, Any]:
        """The fields of a request's body that `record` has and that are not null, records inside it alike. Others go to
        `notes`. RequestError: one cannot be served."""
        return self._known(body, shape_of(record), "", notes)

    def _known(self, given: Mapping[str, Any], shape: Shape, before: str, notes: Notes) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in given.items():
            if name in shape:
                if value is not None:
                    kept[name] = self._inside(value, shape[name], f"{before}{name}", notes)
                continue
            row = self._rows.get(re.sub(r"\[\d+\]", "", before) + name)
            if row is None and (value is not None or notes.strict):
                leave_out(name, shape, notes, before)
            elif row is not None and row.verdict == "refused" and value is not None and not _is_taken(row, value):
                message = f"'{before}{name}' is not supported: weft has no {row.reason}"
                raise RequestError(message, param=before + name, code="unsupported_parameter")
        return kept

    def _inside(self, value: object, shape: Shape | None, at: str, notes: Notes) -> object:
        if shape is not None and isinstance(value, dict):
            return self._known(value, shape, f"{at}.", notes)
        if shape is not None and isinstance(value, list):
            return [self._inside(one, shape, f"{at}[{index}]", notes) for index, one in enumerate(value)]
        return value


def leave_out(name: str, legal: Iterable[str], notes: Notes, before: str = "") -> None:
    """A name that the server does not know. RequestError: it is spelt like a legal one, or `notes` are strict."""
    name = name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."
    names = sorted(legal)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6 if notes.strict else LIKE)
    near = near or [each for each in names if _plain(each) == _plain(name)]
    if near or notes.strict:
        _refuse(before + name, near)
    notes.leave_out(before + name, "this server does not know it")


def _refuse(path: str, near: list[str]) -> NoReturn:
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise RequestError(f"unknown field '{path}'{hint}", param=path, code="unknown_parameter")


def _plain(name: str) -> str:
    """Without what other conventions write otherwise, as in maxTokens."""
    return re.sub(r"[-_]", "", name).lower()


def _is_taken(row: FieldRow, value: object) -> bool:
    return any(type(value) is type(one) and value == one for one in row.taken)
