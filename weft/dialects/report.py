"""Readings as one JSON document, its schema, and readings under names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.dialects.base import Diagnostic, Reading, Refusal, Written
from weft.errors import LayoutError
from weft.layout.layout import layout_settings

SCHEMA = "weft.translate/1"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


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
    where = _record({"line": _INTEGER, "column": _INTEGER, "text": _STRING})
    note = _record(
        {
            "level": {"enum": ["info", "warning", "error"]},
            "code": _STRING,
            "message": _STRING,
            "where": {"anyOf": [where, {"type": "null"}]},
        },
        {"engine": _STRING},
    )
    refused = _record({"message": _STRING, "legal": {"type": "array"}}, {"engine": _STRING})
    layout = {"anyOf": [_layout(), {"type": "null"}]}
    text = _record({"text": _STRING, "notes": {"type": "array", "items": note}})
    properties: dict[str, object] = {
        "schema": {"const": SCHEMA},
        "dialect": {"description": "whose words they are", **_STRING},
        "layout": {"description": "every size, open ones null; null when refused", **layout},
        "layouts": {
            "description": "in place of layout, where the input describes several engines",
            "type": "object",
            "additionalProperties": layout,
        },
        "options": {"description": "engine options understood; by engine where there are several", "type": "object"},
        "notes": {"type": "array", "items": note},
        "refused": {"description": "why the engine itself would not start", "anyOf": [refused, {"type": "null"}]},
        "variables": {"description": "what open sizes depend on", "type": "array", "items": _STRING},
        "written": {
            "description": "the layout in the words of --to; by engine where there are several",
            "anyOf": [text, {"type": "object", "additionalProperties": text}, {"type": "null"}],
        },
    }
    return {
        "$schema": _DRAFT,
        "title": SCHEMA,
        "type": "object",
        "properties": properties,
        "required": ["schema", "dialect", "options", "notes", "refused", "variables"],
        "oneOf": [{"required": ["layout"]}, {"required": ["layouts"]}],
        "additionalProperties": False,
    }


_STRING: dict[str, object] = {"type": "string"}
_INTEGER: dict[str, object] = {"type": "integer", "minimum": 1}


def _record(required: Mapping[str, object], optional: Mapping[str, object] | None = None) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


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
