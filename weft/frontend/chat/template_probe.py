"""What a chat template knows, found by rendering conversations with marks in them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weft.base.errors import RequestError
from weft.engine.text.chat_template import ChatTemplates
from weft.frontend.chat.answer_parser import AnswerParser
from weft.frontend.chat.reasoning_forms import REASONING_FORMS, ReasoningForm
from weft.frontend.chat.tool_forms import TOOL_FORMS, ToolForm
from weft.frontend.chat.tools import Tool

Message = Mapping[str, Any]

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Names under which templates look for what an assistant's turn thought."""
SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates turn thinking on or off."""

_TOOL = Tool(
    name="weft_probe_tool", description="weft probe description", parameters={"type": "object", "properties": {}}
)
_ARGUMENTS = {"weft_probe_key": "weft probe value"}
_MARK, _THOUGHT = "weft probe mark", "weft probe thought"
_ID = "weftcall1"
_USER: Message = {"role": "user", "content": "Hello"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateKnows:
    """`calls`: how the arguments of an assistant's calls are given to it, as JSON text or as an object; None: it shows
    no calls. `form`: the one that it writes calls in. `several`: it takes more than one call in a turn."""

    tools: bool = False
    calls: Literal["text", "object"] | None = None
    form: ToolForm | None = None
    several: bool = True
    results: bool = False
    null_content: bool = False
    system: bool = True
    reasoning_field: str | None = None
    switch: str | None = None
    reasoning: ReasoningForm | None = None


def probe(templates: ChatTemplates, tokens: Collection[str] = ()) -> TemplateKnows:
    """`tokens`: the vocabulary's added ones, which say how a model thinks where its template does not."""
    return _Probe(templates).asked(tokens)


class _Probe:
    def __init__(self, templates: ChatTemplates) -> None:
        self._templates = templates

    def asked(self, tokens: Collection[str]) -> TemplateKnows:
        calls, form = self._calls()
        given = None if calls is None else _call(calls)
        return TemplateKnows(
            tools=self._shows([_USER], _TOOL.name),
            calls=calls,
            form=form,
            several=given is None or self._rendered([_USER, _turn(given, given)]) is not None,
            results=self._shows([_USER, _turn(given or _call("text")), _result()], _MARK),
            null_content=given is not None and self._takes_null(given),
            system=self._shows([{"role": "system", "content": _MARK}, _USER], _MARK),
            reasoning_field=self._reasoning_field(given),
            switch=next((name for name in SWITCHES if self._switches(name)), None),
            reasoning=self._reasoning(tokens),
        )

    def _rendered(self, messages: Sequence[Message], *, prompt: bool = False, **variables: Any) -> str | None:
        """None: the template refuses the conversation."""
        try:
            return self._templates.render(messages, tools=[_TOOL.as_sent()], add_generation_prompt=prompt, **variables)
        except RequestError:
            return None

    def _shows(self, messages: Sequence[Message], mark: str) -> bool:
        return mark in (self._rendered(messages) or "")

    def _calls(self) -> tuple[Literal["text", "object"] | None, ToolForm | None]:
        """How calls are given, and the form they are written in where it is known: text first, as a model's own
        characters are what the prefix cache has."""
        shown: Literal["text", "object"] | None = None
        for kind in ("text", "object"):
            text = self._rendered([_USER, _turn(_call(kind))])
            if text is None or _TOOL.name not in text.removeprefix(self._rendered([_USER]) or ""):
                continue
            for form in TOOL_FORMS.values():
                if any(_reads(form, tail) for tail in self._tails(text)):
                    return kind, form
            if shown is None and '"weft_probe_key"' in text:
                shown = kind
        return shown, None

    def _tails(self, text: str) -> list[str]:
        """What an assistant's turn adds, with and without what opens it."""
        starts = (self._rendered([_USER], prompt=prompt) or "" for prompt in (False, True))
        return [text[len(os.path.commonprefix([start, text])) :] for start in starts]

    def _takes_null(self, call: dict[str, Any]) -> bool:
        text = self._rendered([_USER, {"role": "assistant", "content": None, "tool_calls": [call]}])
        return text is not None and "None" not in text

    def _reasoning_field(self, call: dict[str, Any] | None) -> str | None:
        """Templates may show what was thought before calls alone, or in the last turn alone."""
        for name in REASONING_FIELDS:
            turns: list[list[Message]] = [[_USER, {"role": "assistant", "content": "Hello", name: _THOUGHT}]]
            if call is not None:
                turns.append([_USER, {**_turn(call), name: _THOUGHT}, _result()])
            if any(self._shows(messages, _THOUGHT) for messages in turns):
                return name
        return None

    def _switches(self, name: str) -> bool:
        on, off = (self._rendered([_USER], prompt=True, **{name: value}) for value in (True, False))
        return on != off

    def _reasoning(self, tokens: Collection[str]) -> ReasoningForm | None:
        sources = "".join(self._templates.sources.values())
        for form in REASONING_FORMS.values():
            if form.begin in sources or (form.end in sources and form.end not in ("<|end|>",)):
                return form
        return next((form for form in REASONING_FORMS.values() if {*form.tokens} <= {*tokens}), None)


def _call(kind: str) -> dict[str, Any]:
    arguments = json.dumps(_ARGUMENTS) if kind == "text" else dict(_ARGUMENTS)
    return {"id": _ID, "type": "function", "function": {"name": _TOOL.name, "arguments": arguments}}


def _turn(*calls: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def _result() -> Message:
    return {"role": "tool", "content": _MARK, "tool_call_id": _ID, "name": _TOOL.name}


def _reads(form: ToolForm, text: str) -> bool:
    """Whether `text` is the probe's call in this form."""
    reasoning = REASONING_FORMS["gpt_oss"] if form.in_channels else None
    found = AnswerParser(form=form, tools=[_TOOL], reasoning=reasoning).whole(text).calls
    try:
        return [(call.name, json.loads(call.arguments)) for call in found] == [(_TOOL.name, _ARGUMENTS)]
    except ValueError:
        return False
