"""generation_config.json beside config.json: which of two values counts, and a line where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.base.fields import Fields, shown

COMPARED = ("eos_token_id", "bos_token_id")
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
OWN = ("do_sample", "repetition_penalty", *SAMPLING)
NOT_FOLLOWED: Mapping[str, Any] = {
    "no_repeat_ngram_size": 0, "suppress_tokens": [], "begin_suppress_tokens": [], "bad_words_ids": [],
    "sequence_bias": {}, "forced_bos_token_id": None, "forced_eos_token_id": None, "typical_p": 1, "epsilon_cutoff": 0,
    "eta_cutoff": 0, "penalty_alpha": 0, "guidance_scale": 1, "num_beams": 1, "num_beam_groups": 1, "stop_strings": [],
    "min_length": 0, "min_new_tokens": 0, "max_length": 20, "max_new_tokens": None,
}  # fmt: skip
"""Fields that transformers follows and requests here do not, each with the value that changes nothing."""


def end_ids(config: Mapping[str, Any], generation: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """Ids that end a sequence, sorted: generation_config's where it has any, as in transformers, else config's."""
    own = Fields(generation, f"{where}/generation_config.json").ids("eos_token_id")
    return tuple(sorted({*(own or Fields(config, f"{where}/config.json").ids("eos_token_id"))}))


def of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json without a generation_config.json beside it says of sampling, which counts then."""
    return {key: config[key] for key in (*OWN, *NOT_FOLLOWED) if config.get(key) is not None}


def config_line(values: Fields) -> list[str]:
    """What to say of such values."""
    said = ", ".join(f"{key} {shown(values.values[key])}" for key in OWN if key in values)
    return [f"{values.where}: {said} count, as there is no generation_config.json"] if said else []


def generation_notes(config: Fields, generation: Fields) -> list[str]:
    """What to say of values that differ, or that are not followed. FieldError: a value that is no token id, or no
    flag."""
    notes = list[str]()
    for key in COMPARED:
        own, other = generation.ids(key), config.ids(key)
        if own and other and not {*other} <= {*own}:
            value = shown(generation.values[key])
            notes.append(f"{generation.where}: {key} {value} counts; config.json says {shown(config.values[key])}")
    ends = config.ids("eos_token_id")
    if generation.where != config.where and ends and not generation.ids("eos_token_id"):
        value = shown(config.values["eos_token_id"])
        notes.append(f"{generation.where}: no eos_token_id: config.json's {value} counts, unlike in transformers")
    if is_greedy(generation):
        given = [key for key in SAMPLING if key in generation and generation.values[key] != 0]
        notes.append(
            f"{generation.where}: do_sample false counts, so requests are greedy; it has {', '.join(given)} too"
        )
    left = [
        f"{key} {shown(generation.values[key])}"
        for key, neutral in NOT_FOLLOWED.items()
        if key in generation and generation.values[key] != neutral
    ]
    if left:
        notes.append(f"{generation.where}: not followed, a request says what it wants: {', '.join(left)}")
    return notes


def is_greedy(fields: Fields) -> bool:
    """Whether the file says do_sample false beside values for sampling, which transformers does not look at then."""
    return not fields.flag("do_sample", True) and any(key in fields for key in SAMPLING)
