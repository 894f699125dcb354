"""Rotary embedding in a config.json, in its two spellings, and the context that a scaling gives."""

from __future__ import annotations

from weft.base.errors import FieldError
from weft.base.fields import LARGEST, Fields, shown
from weft.parallel.arch.config import RopeConfig

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (),
    "longrope": (),
}
"""Numbers that a type cannot be computed without."""
_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
_SMALLEST, _LARGEST = 1e-6, 1e9
"""Bounds of these numbers: far beyond any model's, and within them every table can be computed."""
_FACTORS = ("short_factor", "long_factor")
"""Of longrope: numbers for each rotated pair."""
_MAYBE_ZERO = ("mscale", "mscale_all_dim")
"""0 is the same as none."""
LAYER_TYPES = ("full_attention", "sliding_attention")
_TRAINED = "original_max_position_embeddings"


def rope_fields(fields: Fields) -> Fields:
    """What a config says of its rotary embedding. As in transformers 5, `rope_scaling` counts where both spellings are
    given, and `rope_parameters` then not even for its base."""
    return fields.inner("rope_scaling") or fields.inner("rope_parameters") or Fields({}, fields.where)


def read_rope(fields: Fields, positions: int, theta: float, rotated: int, chosen: Fields | None = None) -> RopeConfig:
    """The rotary embedding, of so many dims of a head, of a config with `positions` trained positions. `chosen`: where
    it stands, if not in `rope_fields`."""
    chosen = rope_fields(fields) if chosen is None else chosen
    base = chosen.number("rope_theta", fields.number("rope_theta", theta, low=1.0), low=1.0)
    kind = _kind(chosen)
    if kind == "default":
        return RopeConfig(base)
    if rotated == 2 and kind == "dynamic":  # its exponent is dim / (dim - 2)
        raise FieldError(f"{fields.where}: rope type dynamic: heads with 2 rotated dims; legal: 4 or more")
    for key in _NEEDED[kind]:
        _factor(chosen, key)
    scaling: dict[str, object] = {key: _factor(chosen, key) for key in _NUMBERS if key in chosen}
    scaling |= {key: chosen.number(key, high=_LARGEST, above=False) for key in _MAYBE_ZERO if key in chosen}
    if kind == "longrope":
        scaling |= {key: chosen.numbers(key, rotated // 2, low=_SMALLEST, high=_LARGEST) for key in _FACTORS}
    if kind in ("llama3", "yarn", "longrope"):
        outer = fields if _TRAINED in fields else chosen  # as transformers has it: outside counts more
        scaling[_TRAINED] = outer.whole(_TRAINED, positions, low=2)
        if kind == "llama3" and scaling["low_freq_factor"] == scaling["high_freq_factor"]:
            raise chosen.wrong("high_freq_factor", "above low_freq_factor")
    elif _TRAINED in chosen:
        scaling[_TRAINED] = chosen.whole(_TRAINED)
    if "truncate" in chosen:
        scaling["truncate"] = chosen.flag("truncate", True)
    return RopeConfig(base, {**scaling, "rope_type": kind})


def read_local_rope(
    fields: Fields, positions: int, thetas: tuple[float, float], rotated: int
) -> tuple[RopeConfig, RopeConfig]:
    """The embeddings of layers without and with a window, in either spelling: an object for each kind of layer, or the
    usual words for the first and `rope_local_base_freq` for the second. `thetas`: their bases where none is given."""
    whole = rope_fields(fields)
    if not any(kind in whole for kind in LAYER_TYPES):
        local = RopeConfig(fields.number("rope_local_base_freq", thetas[1], low=1.0))
        return read_rope(fields, positions, thetas[0], rotated), local
    parts = (whole.inner(kind) or Fields({}, whole.where) for kind in LAYER_TYPES)
    full, local = (
        read_rope(fields, positions, theta, rotated, part) for part, theta in zip(parts, thetas, strict=True)
    )
    return full, local


def query_growth(fields: Fields, positions: int) -> tuple[float, int] | None:
    """The words `llama_4_scaling_beta` and `original_max_position_embeddings` of a rotary embedding."""
    chosen = rope_fields(fields)
    weight = chosen.number("llama_4_scaling_beta", 0.0, high=_LARGEST, above=False)
    return (weight, chosen.whole(_TRAINED, positions)) if weight else None


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
