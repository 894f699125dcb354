"""Rotary embedding in a config.json, in its two spellings, and the context that a scaling gives."""

from __future__ import annotations

from weft.base.errors import FieldError
from weft.base.fields import LARGEST, Fields, shown
from weft.parallel.arch.config import RopeConfig

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
_NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (),
}
"""Numbers that a type cannot be computed without."""
_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
_SMALLEST, _LARGEST = 1e-6, 1e9
"""Bounds of these numbers: far beyond any model's, and within them every table can be computed."""
_MAYBE_ZERO = ("mscale", "mscale_all_dim")
"""0 is the same as none."""
_TRAINED = "original_max_position_embeddings"


def read_rope(fields: Fields, positions: int, theta: float) -> RopeConfig:
    """The rotary embedding of a config with `positions` trained positions. As in transformers 5, `rope_scaling` counts
    where both spellings are given, and `rope_parameters` then not even for its base."""
    chosen = fields.inner("rope_scaling") or fields.inner("rope_parameters") or Fields({}, fields.where)
    base = chosen.number("rope_theta", fields.number("rope_theta", theta, low=1.0), low=1.0)
    kind = _kind(chosen)
    if kind == "default":
        return RopeConfig(base)
    for key in _NEEDED[kind]:
        _factor(chosen, key)
    scaling: dict[str, object] = {key: _factor(chosen, key) for key in _NUMBERS if key in chosen}
    scaling |= {key: chosen.number(key, high=_LARGEST, above=False) for key in _MAYBE_ZERO if key in chosen}
    if kind in ("llama3", "yarn"):
        outer = fields if _TRAINED in fields else chosen  # as transformers has it: outside counts more
        scaling[_TRAINED] = outer.whole(_TRAINED, positions)
        if kind == "llama3" and scaling["low_freq_factor"] == scaling["high_freq_factor"]:
            raise chosen.wrong("high_freq_factor", "above low_freq_factor")
    elif _TRAINED in chosen:
        scaling[_TRAINED] = chosen.whole(_TRAINED)
    if "truncate" in chosen:
        scaling["truncate"] = chosen.flag("truncate", True)
    return RopeConfig(base, {**scaling, "rope_type": kind})


def _factor(fields: Fields, key: str) -> float:
    return fields.number(key, low=_SMALLEST, high=_LARGEST, above=False)


def longest_position(rope: RopeConfig, positions: int) -> int:
    """Positions up to which the scaling keeps what the model has learnt: `positions`, or the trained ones times the
    factor where the config's positions are the trained ones."""
    scaling = rope.scaling or {}
    kind, factor = scaling.get("rope_type"), float(scaling.get("factor") or 1.0)
    if kind in ("linear", "dynamic"):
        trained = positions
    elif kind in ("yarn", "llama3"):
        trained = int(scaling.get(_TRAINED) or positions)
    else:
        return positions
    return max(positions, min(int(trained * factor), LARGEST))


def rope_notes(fields: Fields) -> list[str]:
    """What to say where two places give the embedding, or its base, and differ."""
    old, new = fields.inner("rope_scaling"), fields.inner("rope_parameters")
    notes = []
    if old is not None and new is not None and _words(old) != _words(new):
        notes.append(f"{fields.where}: rope_scaling counts, as in transformers; rope_parameters says otherwise")
    chosen, outer = old or new, fields.values.get("rope_theta")
    if chosen is not None and outer is not None and (inner := chosen.values.get("rope_theta")) not in (None, outer):
        notes.append(f"{chosen.where}: rope_theta {shown(inner)} counts; outside of it stands {shown(outer)}")
    return notes


def _words(fields: Fields) -> dict[str, object]:
    return {"rope_type": _kind(fields), **{key: value for key, value in fields.values.items() if key != "type"}}


def _kind(fields: Fields) -> str:
    """The type's name; older configs call the field `type`. For text alone, mrope's sections turn alike, as default."""
    key = "rope_type" if "rope_type" in fields else "type"
    if fields.values.get(key) == "mrope":
        return "default"
    nested = [name for name, value in fields.values.items() if isinstance(value, dict)]
    if nested:
        raise FieldError(
            f"{fields.where}: {nested[0][:60]}: a rotary embedding for each kind of layer is not supported; legal: one"
            " for all layers",
            field="rope_parameters",
        )
    return fields.word(key, ROPE_TYPES, "default")
