"""generation_config.json beside config.json: which of two values counts, and a line where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.fields import Fields, shown

COMPARED = ("eos_token_id", "bos_token_id")
SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def end_ids(config: Mapping[str, Any], generation: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """Ids that end a sequence, sorted: generation_config's where it has any, as in transformers, else config's."""
    own = Fields(generation, f"{where}/generation_config.json").ids("eos_token_id")
    return tuple(sorted({*(own or Fields(config, f"{where}/config.json").ids("eos_token_id"))}))


def generation_notes(config: Mapping[str, Any], generation: Mapping[str, Any], path: Path) -> list[str]:
    """What to say of values that differ. FieldError: a value that is no token id, or no flag."""
    fields, notes = Fields(generation, str(path / "generation_config.json")), list[str]()
    outer = Fields(config, str(path / "config.json"))
    for key in COMPARED:
        own, other = fields.ids(key), outer.ids(key)
        if own and other and not {*other} <= {*own}:
            notes.append(f"{fields.where}: {key} {shown(fields.values[key])} counts; config.json says {shown(other)}")
    if is_greedy(fields):
        given = [key for key in SAMPLING if key in fields and fields.values[key] != 0]
        notes.append(f"{fields.where}: do_sample false counts, so requests are greedy; it has {', '.join(given)} too")
    return notes


def is_greedy(fields: Fields) -> bool:
    """Whether the file says do_sample false beside values for sampling, which transformers does not look at then."""
    return not fields.flag("do_sample", True) and any(key in fields for key in SAMPLING)
