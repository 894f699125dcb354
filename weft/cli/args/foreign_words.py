"""What weft makes of another engine's options that it does not have by that name: as on its own command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from weft.base.errors import WeftError
from weft.base.settings import engine_settings
from weft.cli.args.familiar import FamiliarWord, familiar
from weft.tools.dialects.base import Context
from weft.tools.dialects.registry import read_words

_SAID = (
    (r"--(?:moe-a2a-backend|moe_a2a_backend|all2all-backend)[ =]['\"]?\w*deepep|--deepep-mode|--enable-deepep-moe",
     "DeepEP is not there: weft's own exchange brings rows to experts (--moe-dispatch)"),
    (r"\bSGLANG_USE_1STAGE_ALLREDUCE=",
     "SGLANG_USE_1STAGE_ALLREDUCE: always so: an all-reduce adds in one fixed order"),
    (r"\bHCCL_BUFFSIZE=", "HCCL_BUFFSIZE: buffers of collectives have the size that a step needs"),
)  # fmt: skip
"""What engines' words may hold that is no size and no option -> what weft does instead."""


def said_of_words(words: Sequence[str]) -> list[str]:
    """Notes about words that are taken into no layout and no option."""
    text = " ".join(words)
    return [note for pattern, note in _SAID if re.search(pattern, text)]


def _word_of(name: str) -> FamiliarWord | None:
    return familiar("--" + name)


def taken_as(options: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    """By name of an option: the engine's setting that it is here, and its value. Options that have no value, or that
    the engine has by the same name, are left out."""
    flags = {
        flag: each for each in engine_settings() for flag in (*each.option.flags, "--no-" + each.option.flags[0][2:])
    }
    names = {each.name for each in engine_settings()}
    found: dict[str, tuple[str, object]] = {}
    for name, value in options.items():
        word = None if name in names or value is None or value is False else _word_of(name)
        setting = None if word is None else flags.get(word.to)
        if word is not None and setting is not None:
            found[name] = setting.name, not word.to.startswith("--no-") if word.bare else value
    return found


def notes_of(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Notes about options that change nothing here, and the names of the others."""
    words = {name: word for name in names if (word := _word_of(name)) is not None and word.kind == "taken"}
    notes = [f"{name}: {word.says}" for name, word in words.items() if word.says]
    return notes, [name for name in names if name not in words]


def unheeded(words: Sequence[str], dialect: str | None, context: Context) -> list[str]:
    """Each flag, with its value, without which the command means the same, and the same is said of it."""
    whole = _meaning(words, dialect, context)
    if whole is None:
        return []
    runs = _runs(words)
    without = [_meaning([*words[:first], *words[end:]], dialect, context) for first, end in runs]
    return [" ".join(words[first:end]) for (first, end), each in zip(runs, without, strict=True) if each == whole]


def _runs(words: Sequence[str]) -> list[tuple[int, int]]:
    """First and end of each flag with its value, where the next word is no flag."""
    found = []
    for at, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            valued = "=" not in word and at + 1 < len(words) and not words[at + 1].startswith("-")
            found.append((at, at + 1 + valued))
    return found


def _meaning(words: Sequence[str], dialect: str | None, context: Context) -> list[object] | None:
    """None where the words cannot be read."""
    try:
        readings = read_words(list(words), dialect, context)
    except WeftError:
        return None
    return [
        (each.sizes, dict(each.options), {note.message for note in each.notes}, each.refused, each.role, each.node)
        for each in readings
    ]


_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")


def experts_in(path: str | Path) -> int | None:
    """Routed experts that a model's config.json says, 0 for a dense model; None without such a file."""
    file = Path(path)
    try:
        file = file / "config.json" if file.is_dir() else file
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or "model_type" not in config and "architectures" not in config:
        return None
    inner = config.get("text_config")
    both = {**(inner if isinstance(inner, dict) else {}), **config}
    found = [both[key] for key in _EXPERTS if isinstance(both.get(key), int)]
    return found[0] if found else 0
