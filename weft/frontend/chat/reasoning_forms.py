"""How model families mark what they think before they answer: one row a form."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningForm:
    """`begin` thoughts `end` `then` `answer` text. `tokens`: texts that are one token where the vocabulary has them."""

    name: str
    begin: str
    end: str
    tokens: tuple[str, ...] = ()
    then: str = ""
    """What stands between two messages of one answer."""
    answer: tuple[str, ...] = ()
    """What opens the answer: the first is written, all are read."""
    anywhere: bool = False
    """Thoughts may stand between other parts of an answer; else only at its start."""


_ROWS = (
    ReasoningForm(name="think", begin="<think>", end="</think>", tokens=("<think>", "</think>")),
    ReasoningForm(name="mistral", begin="[THINK]", end="[/THINK]", tokens=("[THINK]", "[/THINK]")),
    ReasoningForm(name="seed_oss", begin="<seed:think>", end="</seed:think>", tokens=("<seed:think>", "</seed:think>")),
    ReasoningForm(
        name="gpt_oss",
        begin="<|channel|>analysis<|message|>",
        end="<|end|>",
        then="<|start|>assistant",
        answer=("<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
        tokens=("<|channel|>", "<|message|>", "<|start|>", "<|end|>"),
        anywhere=True,
    ),
)

REASONING_FORMS = {form.name: form for form in _ROWS}
"""By name."""

ALSO_CALLED = {
    "deepseek_r1": "think", "deepseek-r1": "think", "deepseek_v3": "think", "deepseek-v3": "think", "qwen3": "think",
    "qwen3-thinking": "think", "glm45": "think", "glm4_moe": "think", "openai_gptoss": "gpt_oss", "gpt-oss": "gpt_oss",
}  # fmt: skip
"""Names of vLLM and SGLang for the same forms."""


def reasoning_named(name: str) -> ReasoningForm | None:
    """The form of this or of another engine's name."""
    return REASONING_FORMS.get(ALSO_CALLED.get(name, name))


class Thinking(Enum):
    """Where an answer stands to reasoning at its start."""

    NONE = "it has none"
    MAY = "it may begin with reasoning"
    OPEN = "the prompt ends inside reasoning"


def thinking_after(prompt: str, form: ReasoningForm | None, continued: str | None = None) -> Thinking:
    """How an answer to `prompt` begins. `continued`: the message of the assistant that it goes on with."""
    if form is None:
        return Thinking.NONE
    end = prompt.rstrip()
    if end.endswith(form.begin):
        return Thinking.OPEN
    if continued is not None:
        begun = continued.rfind(form.begin)
        return Thinking.OPEN if begun > continued.rfind(form.end) else Thinking.MAY if not continued else Thinking.NONE
    return Thinking.NONE if end.endswith(form.end) else Thinking.MAY
