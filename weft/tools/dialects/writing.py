"""What the writers share: shell text, and the check that reads a command back and notes what it could not say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from weft.parallel.layout import Layout
from weft.parallel.layout.layout import layout_settings
from weft.parallel.layout.serialize import to_dict
from weft.tools.dialects.base import Context, Diagnostic, Reading, Written
from weft.tools.dialects.families import family
from weft.tools.dialects.flags import Table

MODEL = "MODEL"


def command(program: str, parts: Sequence[tuple[str, object]], environment: Mapping[str, object] | None = None) -> str:
    """A command with one flag a line; a part is (flag, value), value None for a switch."""
    lines = [program]
    for flag, value in parts:
        lines.append(flag if value is None else f"{flag} {_quoted(value)}")
    before = "".join(f"{name}={_quoted(value)} " for name, value in (environment or {}).items())
    return before + " \\\n  ".join(lines) + "\n"


def _quoted(value: object) -> str:
    return " ".join(shlex.quote(str(item)) for item in value) if isinstance(value, list) else shlex.quote(str(value))


def experts_for(layout: Layout, options: Mapping[str, object]) -> int:
    """Experts of the model that a layout is written for: stated, by the model's name, or one per slot."""
    if layout.experts is None:
        return 0
    stated = options.get("num_experts")
    if isinstance(stated, int) and stated > 0:
        return stated
    found = family(str(options.get("model", "")))
    return found.experts if found is not None and found.experts else layout.experts.slots


def context_for(layout: Layout, options: Mapping[str, object]) -> Context:
    """How the written text is to be read: with the model's number of experts."""
    return Context(experts=experts_for(layout, options))


def checked(layout: Layout, text: str, back: Sequence[Reading], notes: Sequence[Diagnostic] = ()) -> Written:
    """The text, with a note for everything in which its reading differs from the layout."""
    found = list(notes)
    reading = back[0] if back else None
    if reading is None or reading.layout is None:
        refused = reading.refused if reading is not None else None
        why = refused.message if refused else "it cannot be read back"
        found.append(Diagnostic("error", "cannot-say", f"the engine would not start with this layout: {why}"))
        return Written(text, tuple(found))
    for name, wanted, said in _differences(layout, reading.layout):
        found.append(
            Diagnostic("warning", "cannot-say", f"{name} {wanted} cannot be said; the engine will have {said}")
        )
    return Written(text, tuple(found))


def _differences(wanted: Layout, said: Layout) -> list[tuple[str, object, object]]:
    ours, theirs = flat(wanted), flat(said)
    if ours["attention.split"] == "auto":
        del ours["attention.split"]  # weft decides it by the number of nodes; no engine is asked for one
    return [(name, _shown(ours[name]), _shown(theirs[name])) for name in ours if ours[name] != theirs[name]]


def _shown(value: object) -> object:
    return "unset" if value is None else value


def flat(layout: Layout) -> dict[str, object]:
    """Dotted names -> values of a layout, world first."""
    document = to_dict(layout)
    found: dict[str, object] = {"world": document["world"]}
    for setting in layout_settings():
        value: object = document
        for part in setting.name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[setting.name] = value
    return found


def section_of(document: dict[str, object], key: str) -> tuple[dict[str, object], str]:
    """The mapping that holds a dotted key, made where it is missing, and the last part of the key."""
    *path, leaf = key.split(".")
    for part in path:
        inner = document.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = document[part] = {}
        document = inner
    return document, leaf


def no_key(option: str, value: object) -> Diagnostic:
    """An option that a file of the engine cannot say."""
    return Diagnostic("warning", "cannot-say", f"option {option} {value} has no key in this engine's file")


def engine_parts(
    options: Mapping[str, object],
    names: Mapping[str, str],
    off: Mapping[str, str] | None = None,
    table: Table | None = None,
) -> tuple[list[tuple[str, object]], list[Diagnostic]]:
    """Flags for the engine options that a dialect has a name for, and notes for those it has none for.

    `off` names the flags that turn something off which is on by default; `table` has all flags, where the options are
    the engine's own.
    """
    own = {flag.dest: flag for flag in reversed(table.flags) if not flag.status} if table else {}
    parts: list[tuple[str, object]] = []
    notes: list[Diagnostic] = []
    for option, value in options.items():
        if option in ("model", "num_experts") or value is None:
            continue
        if off and option in off:
            parts += [] if value else [(off[option], None)]
        elif value is False:
            negated = "--no-" + own[option].names[0][2:] if option in own else ""
            parts += [(negated, None)] if table and negated in table.names else []
        elif option in names or option in own:
            flag = names[option] if option in names else own[option].names[0]
            shown = json.dumps(value) if isinstance(value, dict) else value
            parts.append((flag, None if value is True else shown))
        else:
            notes.append(Diagnostic("warning", "cannot-say", f"option {option} {value} has no flag in this engine"))
    return parts, notes
