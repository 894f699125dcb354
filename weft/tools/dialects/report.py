"""Readings as one JSON document, its schema, and readings under names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.base.data_files import read_schema
from weft.base.errors import LayoutError
from weft.parallel.layout.layout import layout_settings
from weft.tools.dialects.base import Diagnostic, Reading, Refusal, Written

SCHEMA = "weft.translate/1"


def named(readings: Sequence[Reading]) -> dict[str, Reading]:
    """Readings by name; what has none, or another's, gets a number."""
    found: dict[str, Reading] = {}
    for number, reading in enumerate(readings, 1):
        name = reading.name or str(number)
        found[name if name not in found else f"{name} ({number})"] = reading
    return found


def strict(readings: Sequence[Reading], unread: Sequence[Diagnostic]) -> list[Reading]:
    """Readings whose unknown words are refused."""
    return [_strict(reading, [note for note in reading.notes if note in unread]) for reading in readings]


def _strict(reading: Reading, unread: Sequence[Diagnostic]) -> Reading:
    if not unread:
        return reading
    notes = tuple(replace(note, level="error") if note in unread else note for note in reading.notes)
    refused = reading.refused or Refusal("; ".join(f"{note.message} ({note.where})" for note in unread))
    return replace(reading, notes=notes, refused=refused, layout=None)


def on_nodes(reading: Reading, nodes: int) -> Reading:
    """The reading with its ranks spread over so many nodes; refused where they cannot be."""
    if reading.sizes is None or reading.refused:
        return reading
    sizes = replace(reading.sizes, nodes=nodes)
    try:
        return replace(reading, sizes=sizes, layout=sizes.build())
    except LayoutError as error:
        note = Diagnostic("error", "refused", str(error))
        refused = Refusal(str(error), error.legal)
        return replace(reading, sizes=sizes, layout=None, refused=refused, notes=(*reading.notes, note))


def document(readings: Mapping[str, Reading], written: Mapping[str, Written] | None = None) -> dict[str, object]:
    """The JSON document of readings by name; several engines have `layouts` in place of `layout`."""
    first = next(iter(readings.values()))
    found: dict[str, object] = {"schema": SCHEMA, "dialect": first.dialect}
    if len(readings) == 1:
        found["layout"] = first.layout_document()
        found["options"] = dict(first.options)
        found["notes"] = [note.document() for note in first.notes]
        found["refused"] = first.refused.document() if first.refused else None
        found["variables"] = list(first.variables)
    else:
        found["layouts"] = {name: reading.layout_document() for name, reading in readings.items()}
        found["options"] = {name: dict(reading.options) for name, reading in readings.items()}
        found["notes"] = [
            note.document() | {"engine": name} for name, reading in readings.items() for note in reading.notes
        ]
        refusals = [each.refused.document() | {"engine": name} for name, each in readings.items() if each.refused]
        found["refused"] = refusals[0] if refusals else None
        found["variables"] = list(dict.fromkeys(name for each in readings.values() for name in each.variables))
    if written is not None:
        texts = {name: _written(each) for name, each in written.items()}
        found["written"] = texts if len(readings) > 1 else next(iter(texts.values()), None)
    return found


def _written(written: Written) -> dict[str, object]:
    return {"text": written.text, "notes": [note.document() for note in written.notes]}


def json_schema() -> dict[str, object]:
    """JSON schema (2020-12) of `document`'s answer."""
    schema = read_schema("weft.tools.dialects", SCHEMA)
    properties = schema["properties"]
    layout = {"anyOf": [_layout(), {"type": "null"}]}
    properties["layout"] |= layout
    properties["layouts"]["additionalProperties"] = layout
    return schema


def _layout() -> dict[str, object]:
    """The layout's document; every size may be null."""
    root: dict[str, object] = {"world": {"type": ["integer", "null"], "minimum": 1}}
    for setting in layout_settings():
        properties = root
        *sections, leaf = setting.name.split(".")
        for section in sections:
            empty = {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
            inner = properties.setdefault(section, empty)
            assert isinstance(inner, dict)
            properties = inner["properties"]
        properties[leaf] = {"anyOf": [setting.schema(), {"type": "null"}]}
    return {"type": "object", "properties": root, "required": ["world", "attention"], "additionalProperties": False}
