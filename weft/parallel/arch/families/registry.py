"""The families that weft runs, and the way from a config.json to one of them."""

from __future__ import annotations

import difflib

from weft.base.errors import ConfigError, FieldError
from weft.base.fields import Fields, Raw, shown
from weft.base.printable import printable
from weft.parallel.arch.block import refuse_not_run
from weft.parallel.arch.config import ModelConfig
from weft.parallel.arch.families import (
    deepseek_v2,
    deepseek_v3,
    glm4_moe,
    glm4_moe_lite,
    llama,
    mistral,
    mixtral,
    qwen2,
    qwen3,
    qwen3_moe,
)
from weft.parallel.arch.families.dense import ernie4_5, ministral3, phi3, seed_oss, smollm3
from weft.parallel.arch.family import ModelFamily
from weft.parallel.arch.reading.rope import rope_notes
from weft.parallel.arch.reading.wrappers import TEXT_TYPES, text_part

FAMILIES: dict[str, ModelFamily] = {
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "mixtral": mixtral.FAMILY,
    "qwen3_moe": qwen3_moe.FAMILY,
    "deepseek_v2": deepseek_v2.FAMILY,
    "deepseek_v3": deepseek_v3.FAMILY,
    "glm4_moe": glm4_moe.FAMILY,
    "glm4_moe_lite": glm4_moe_lite.FAMILY,
    "smollm3": smollm3.FAMILY,
    "phi3": phi3.FAMILY,
    "seed_oss": seed_oss.FAMILY,
    "ernie4_5": ernie4_5.FAMILY,
    "ministral3": ministral3.FAMILY,
}
"""By config.json's model_type."""


def parse_config(raw: Raw, where: str = "config.json") -> ModelConfig:
    """ModelConfig of a config.json dictionary, of its text part where it is one of several. FieldError names the file
    (`where`), the field, its value and what is supported."""
    fields = text_part(Fields(raw, where))
    family = family_of(fields)
    config = family.config(Fields(family.completed(fields.values), fields.where))
    try:
        refuse_not_run(config.block, latent=config.mla is not None)
    except ConfigError as error:
        message = f"{fields.where}: {error}"
        raise FieldError(message, field=error.field, value=error.value, legal=error.legal) from None
    return config


def config_notes(raw: Raw, where: str) -> list[str]:
    """What to say of fields that contradict each other."""
    whole = Fields(raw, where)
    fields = text_part(whole)
    said = [f"{where}: the text part is served; images, audio and video are not read"] if fields is not whole else []
    return [*said, *rope_notes(fields), *_word_notes(fields)]


def _word_notes(fields: Fields) -> list[str]:
    """Where two words for one field differ."""
    family, notes = family_of(fields), list[str]()
    for key, words in family.words.items():
        given = {word: fields.values[word] for word in words if word in fields}
        if len({*map(str, given.values())}) > 1:
            first, *others = given
            left = ", ".join(f"{word} {shown(given[word])}" for word in others)
            notes.append(
                f"{fields.where}: {first} {shown(given[first])} counts as {key}, as in transformers, not {left}"
            )
    return notes


def gguf_families(architecture: object) -> tuple[ModelFamily, ...]:
    """The families that a GGUF file of this architecture may hold."""
    return tuple(
        each for each in FAMILIES.values() if each.gguf and architecture in (each.gguf.architecture, *each.gguf.also)
    )


def gguf_architectures() -> tuple[str, ...]:
    """Every architecture of GGUF files that is read."""
    forms = (each.gguf for each in FAMILIES.values() if each.gguf)
    return tuple(dict.fromkeys(name for form in forms for name in (form.architecture, *form.also)))


def family_of(fields: Fields) -> ModelFamily:
    """The family that `architectures` names, or model_type where there are none."""
    named = {name: family for family in FAMILIES.values() for name in family.architectures}
    names = fields.texts("architectures")
    kind = fields.text("model_type", "", longest=200)
    by_type = FAMILIES.get(TEXT_TYPES.get(kind, kind))
    for name in names:
        if name in named:
            if by_type not in (None, named[name]):
                raise fields.wrong("model_type", named[name].name, f"architectures names {name}; correct one of them")
            return named[name]
    if by_type is not None and all(name in _bare(by_type) for name in names):
        return by_type
    given = names[0] if names else kind
    near = difflib.get_close_matches(given[:200], named, n=1, cutoff=0.8)
    hint = f" (nearest: {near[0]})" if near else ""
    raise FieldError(
        f"{fields.where}: architecture {printable(given, 60)} is not supported{hint}; supported: {', '.join(named)}",
        field="architectures",
        value=given,
        legal=tuple(named),
    )


def _bare(family: ModelFamily) -> tuple[str, ...]:
    """Architectures of the family's models that were saved without their lm_head."""
    return tuple(f"{name.removesuffix('ForCausalLM')}Model" for name in family.architectures)
