"""Models by their names: dense or mixture of experts, and how many experts. Numbers from the public model cards.

Only for reading commands that name a model without its config.json; a config always wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from weft.dialects.base import Draft
from weft.dialects.sizes import whole_number


@dataclass(frozen=True, slots=True)
class Family:
    """Routed experts of a model: 0 dense, None a mixture of unknown size."""

    name: str
    experts: int | None

    @property
    def moe(self) -> bool:
        """Whether it has routed experts."""
        return self.experts != 0


_KNOWN: tuple[tuple[str, str, int | None], ...] = (
    (r"r1[-_]?distill|distill[-_]?(qwen|llama)", "a dense distillate of DeepSeek-R1", 0),
    (r"deepseek[-_]?(coder[-_]?)?v2(\.\d)?[-_]?(coder[-_]?)?lite", "DeepSeek-V2-Lite", 64),
    (r"deepseek[-_]?(coder[-_]?)?v2|deepseek[-_]?v2\.5", "DeepSeek-V2", 160),
    (r"deepseek[-_]?v4", "DeepSeek-V4", None),
    (r"deepseek[-_]?v3[-_]?lite", "DeepSeek-V3-Lite", 72),
    (r"deepseek[-_]?(v3|r1|prover[-_]?v2[-_]?671b)|(^|[-_/])dsv3|(^|[-_/])ds[-_]?r1", "DeepSeek-V3/R1", 256),
    (r"deepseek[-_]?moe[-_]?16b", "DeepSeekMoE-16B", 64),
    (r"deepseek", "DeepSeek", 0),
    (r"kimi[-_]?k2|kimi[-_]?k1\.5", "Kimi-K2", 384),
    (r"kimi[-_]?linear|moonlight", "a mixture of Moonshot", None),
    (r"qwen3[-_.]?(5|6|7)[-_]397b", "Qwen3.5-397B-A17B", 512),
    (r"qwen3[-_]?(coder[-_]?)?next", "Qwen3-Next", 512),
    (r"qwen3[-_]?coder[-_]?480b", "Qwen3-Coder-480B-A35B", 160),
    (r"qwen3.*(235b|30b)[-_]?a\d+b", "Qwen3-MoE", 128),
    (r"qwen3[-_]?(vl|omni|coder)?[-_]?moe", "Qwen3-MoE", 128),
    (r"qwen2[-_]?57b[-_]?a14b", "Qwen2-57B-A14B", 64),
    (r"qwen1\.5[-_]?moe", "Qwen1.5-MoE", 60),
    (r"mixtral[-_]?8x\d+b", "Mixtral", 8),
    (r"mixtral", "Mixtral", 8),
    (r"gpt[-_]?oss[-_]?120b", "gpt-oss-120b", 128),
    (r"gpt[-_]?oss[-_]?20b", "gpt-oss-20b", 32),
    (r"gpt[-_]?oss", "gpt-oss", None),
    (r"llama[-_]?4[-_]?scout", "Llama-4-Scout", 16),
    (r"llama[-_]?4[-_]?maverick", "Llama-4-Maverick", 128),
    (r"glm[-_]?4\.\d[-_]?air|glm[-_]?4\.\dv(?![-_]?flash)", "GLM-4.5-Air", 128),
    (r"glm[-_]?4\.\d[-_]?flash", "GLM-4.7-Flash", 64),
    (r"glm[-_]?4\.[5-9]", "GLM-4.5", 160),
    (r"glm[-_]?5", "GLM-5", 256),
    (r"minimax[-_]?m2", "MiniMax-M2", 256),
    (r"minimax[-_]?(m1|text[-_]?01)", "MiniMax-01", 32),
    (r"dbrx", "DBRX", 16),
    (r"grok", "Grok", 8),
    (r"olmoe", "OLMoE", 64),
    (r"phi[-_]?3\.5[-_]?moe|phi[-_]?tiny[-_]?moe", "Phi-3.5-MoE", 16),
    (r"jamba", "Jamba", 16),
    (r"hunyuan[-_]?a13b", "Hunyuan-A13B", 64),
    (r"ernie[-_]?4\.5[-_]?0\.3b", "ERNIE-4.5-0.3B", 0),
    (r"ernie[-_]?4\.5", "ERNIE-4.5", 64),
    (r"step[-_]?3(?![.\d])", "Step-3", 48),
    (r"mistral[-_]?large[-_]?3", "Mistral-Large-3", None),
    (r"arctic", "Snowflake Arctic", 128),
    (r"pangu.*pro[-_]?moe", "Pangu-Pro-MoE", 64),
    (r"\d+x\d+(\.\d+)?b", "a mixture of experts", None),
    (
        r"[-_]a\d+(\.\d+)?b(\b|[-_])|(^|[-_/])moe\b|moe[-_]|[-_]moe|longcat|ling[-_]|bailing|dots\.llm1|mimo[-_]v2",
        "a mixture of experts",
        None,
    ),
    (
        r"llama|qwen|qwq|mistral|ministral|codestral|gemma|phi|falcon|yi[-_]|smollm|opt[-_]|gpt2|bloom|internlm|baichuan",
        "dense",
        0,
    ),
    (
        r"starcoder|command[-_]?r|granite|olmo|stablelm|chatglm|glm[-_]?4[-_]|mpt[-_]|nemotron|exaone|solar|vicuna|mimo",
        "dense",
        0,
    ),
)
_COMPILED = tuple((re.compile(pattern), name, experts) for pattern, name, experts in _KNOWN)


def family(model: str) -> Family | None:
    """The family that a model's name or path belongs to; None when nothing is known about it."""
    text = model.lower().rstrip("/")
    for part in (text.rsplit("/", 1)[-1], text):
        for pattern, name, experts in _COMPILED:
            if pattern.search(part):
                count = re.search(r"\b(\d+)x\d", part) if experts is None else None
                return Family(name, int(count[1]) if count else experts)
    return None


def experts_of(model: str, signs: str, draft: Draft) -> tuple[bool, int | None]:
    """(mixture of experts?, number of experts or None). `signs` names what in the text asks for experts, if anything.

    A config's number wins over the name; without either the text's own signs decide, and a note says so.
    """
    known = draft.context.experts
    if known is not None:
        return known > 0, known or None
    stated = draft.context.settings.get("experts", "")
    if (count := whole_number(stated)) is not None:
        return count > 0, count or None
    found = family(model) or _served(draft)
    if found is not None and (found.experts or not found.moe):
        return found.moe, found.experts or None
    if found is not None or signs:
        reason = f"{model} is a mixture of experts" if found else f"{signs} asks for a mixture of experts"
        message = (
            f"{reason}; its number of experts is not known from the name (--set experts=N gives it), "
            "slots that follow from it stay open"
        )
        draft.note("info", "experts-unknown", message)
        return True, None
    shown = f"the model {model}" if model else "the model"
    message = f"{shown} is not known by its name; read as dense (--set experts=N for a mixture of experts)"
    draft.note("info", "model-unknown", message)
    return False, None


def _served(draft: Draft) -> Family | None:
    """The family by the name it is served under, where the path has no known name."""
    name = draft.options.get("served_model_name")
    found = family(name) if isinstance(name, str) else None
    if found is not None:
        draft.note(
            "info", "model-served", f"the model was taken for {found.name} by the name it is served under, {name}"
        )
    return found
