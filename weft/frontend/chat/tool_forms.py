"""How model families write tool calls: one row a form, read by the grammar, the parser and the renderer.

A row is written as the family's chat template writes it. `$name` and `$arguments` stand for the two parts of a call,
and `$id` for an id. White space, and white space around JSON's own punctuation, may be missing or differ in an answer.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

Ids = Literal["call", "nine"]
"""Ids of calls: "call_" and 24 letters or digits, or exactly nine letters or digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolForm:
    """`begin calls[0] (separator calls[0])* end`. `tokens`: texts that are one token where the vocabulary has them."""

    name: str
    calls: tuple[str, ...]
    """Spellings of a call: the first is written, all are read."""
    tokens: tuple[str, ...] = ()
    separator: str = "\n"
    begin: str = ""
    end: str = ""
    arguments: Literal["json", "xml"] = "json"
    """One JSON object, or Qwen3-Coder's `<parameter=NAME>` elements."""
    at_start: bool = False
    """Calls are a whole answer: they begin at its start, and no text follows."""
    parallel: bool = True
    """Whether an answer may hold several calls."""
    ids: Ids = "call"
    in_channels: bool = False
    """An answer is a sequence of messages, as in `ReasoningForm.then`: every call is one."""

    @property
    def joined(self) -> bool:
        """Whether calls follow each other directly, with text only before the first."""
        return bool(self.begin) or self.at_start

    def around(self, call: str) -> tuple[str, str, str]:
        """A spelling's parts: before the name, between name and arguments, after them."""
        before, rest = call.split("$name")
        between, after = rest.split("$arguments")
        return before, between, after

    def written(self, name: str, arguments: str) -> str:
        """One call as text."""
        return string.Template(self.calls[0]).substitute(name=name, arguments=arguments, id="")


_HERMES = '<tool_call>\n{"name": "$name", "arguments": $arguments}\n</tool_call>'
_LLAMA = '{"name": "$name", "parameters": $arguments}'
_ALSO_LLAMA = (
    '{"name": "$name", "arguments": $arguments}',
    '{"type": "function", "name": "$name", "parameters": $arguments}',
)
"""As vLLM 0.11 (`arguments`) and llama.cpp of 2025 (`type`) read them, too."""
_MISTRAL = '{"name": "$name", "arguments": $arguments}'
_DEEPSEEK_TOKENS = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip
_DEEPSEEK_V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>$name\n```json\n$arguments\n```<｜tool▁call▁end｜>"
_CHANNEL_TOKENS = ("<|channel|>", "<|message|>", "<|constrain|>", "<|call|>", "<|start|>", "<|end|>")
_CHANNELS = (
    "<|channel|>commentary to=functions.$name <|constrain|>json<|message|>$arguments<|call|>",
    "<|channel|>commentary to=functions.$name json<|message|>$arguments<|call|>",
    "<|channel|>commentary to=functions.$name<|message|>$arguments<|call|>",
    "<|channel|>analysis to=functions.$name <|constrain|>json<|message|>$arguments<|call|>",
    " to=functions.$name<|channel|>commentary <|constrain|>json<|message|>$arguments<|call|>",
    " to=functions.$name<|channel|>commentary json<|message|>$arguments<|call|>",
    " to=functions.$name<|channel|>commentary<|message|>$arguments<|call|>",
)

_ROWS = (
    ToolForm(name="hermes", calls=(_HERMES,), tokens=("<tool_call>", "</tool_call>")),
    ToolForm(
        name="qwen3_coder",
        calls=(
            "<tool_call>\n<function=$name>\n$arguments</function>\n</tool_call>",
            "<function=$name>\n$arguments</function>",
        ),
        tokens=("<tool_call>", "</tool_call>"),
        arguments="xml",
    ),
    ToolForm(
        name="llama3_json",
        calls=(_LLAMA, *_ALSO_LLAMA, *(f"<|python_tag|>{call}" for call in (_LLAMA, *_ALSO_LLAMA))),
        tokens=("<|python_tag|>",),
        separator="; ",
        at_start=True,
    ),
    ToolForm(
        name="mistral",
        calls=(_MISTRAL, '{"name": "$name", "arguments": $arguments, "id": "$id"}'),
        tokens=("[TOOL_CALLS]",),
        separator=", ",
        begin="[TOOL_CALLS] [",
        end="]",
        ids="nine",
    ),
    ToolForm(
        name="mistral_args",
        calls=("[TOOL_CALLS]$name[ARGS]$arguments", "[TOOL_CALLS]$name[CALL_ID]$id[ARGS]$arguments"),
        tokens=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        separator="",
        ids="nine",
    ),
    ToolForm(
        name="deepseek_v3",
        calls=(_DEEPSEEK_V3,),
        tokens=_DEEPSEEK_TOKENS,
        begin="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
    ),
    ToolForm(
        name="deepseek_v31",
        calls=("<｜tool▁call▁begin｜>$name<｜tool▁sep｜>$arguments<｜tool▁call▁end｜>",),
        tokens=_DEEPSEEK_TOKENS,
        separator="",
        begin="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
    ),
    ToolForm(
        name="gpt_oss",
        calls=_CHANNELS,
        tokens=_CHANNEL_TOKENS,
        separator="<|start|>assistant",
        parallel=False,
        in_channels=True,
    ),
)  # fmt: skip

TOOL_FORMS = {form.name: form for form in _ROWS}
"""By name."""

ALSO_CALLED = {
    "qwen": "hermes", "qwen25": "hermes", "qwen3": "hermes", "qwen3_xml": "qwen3_coder", "llama3": "llama3_json",
    "llama4_json": "llama3_json", "deepseekv3": "deepseek_v3", "deepseekv31": "deepseek_v31", "openai": "gpt_oss",
    "gpt-oss": "gpt_oss",
}  # fmt: skip
"""Names of vLLM and SGLang for the same forms."""


def form_named(name: str) -> ToolForm | None:
    """The form of this or of another engine's name."""
    return TOOL_FORMS.get(ALSO_CALLED.get(name, name))
