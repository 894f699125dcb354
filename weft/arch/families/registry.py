"""The families that weft runs, and the way from a config.json to one of them."""

from __future__ import annotations

import difflib

from weft.arch.block import refuse_not_run
from weft.arch.config import ModelConfig
from weft.arch.families import deepseek_v2, deepseek_v3, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe
from weft.arch.family import ModelFamily, Raw
from weft.errors import ConfigError

FAMILIES: dict[str, ModelFamily] = {
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "mixtral": mixtral.FAMILY,
    "qwen3_moe": qwen3_moe.FAMILY,
    "deepseek_v2": deepseek_v2.FAMILY,
    "deepseek_v3": deepseek_v3.FAMILY,
}
"""By config.json's model_type."""


def parse_config(raw: Raw) -> ModelConfig:
    """ModelConfig of a config.json dictionary; ConfigError names the field, its value and what is supported."""
    config = _family(raw).config(raw)
    refuse_not_run(config.block, latent=config.mla is not None)
    return config


def gguf_families(architecture: object) -> tuple[ModelFamily, ...]:
    """The families that a GGUF file of this architecture may hold."""
    return tuple(each for each in FAMILIES.values() if each.gguf and each.gguf.architecture == architecture)


def gguf_architectures() -> tuple[str, ...]:
    """Every architecture of GGUF files that is read."""
    return tuple(dict.fromkeys(each.gguf.architecture for each in FAMILIES.values() if each.gguf))


def _family(raw: Raw) -> ModelFamily:
    named = {name: family for family in FAMILIES.values() for name in family.architectures}
    names = raw.get("architectures") or []
    for name in names:
        if name in named:
            return named[name]
    if not names and raw.get("model_type") in FAMILIES:
        return FAMILIES[str(raw["model_type"])]
    given = str(names[0] if names else raw.get("model_type"))
    near = difflib.get_close_matches(given, named, n=1, cutoff=0.8)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ConfigError(
        f"architecture {given} is not supported{hint}; supported: {', '.join(named)}",
        field="architectures",
        value=given,
        legal=tuple(named),
    )
