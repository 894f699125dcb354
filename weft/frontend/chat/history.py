"""A conversation as its template takes it: calls, results and reasoning in the template's own fields, or as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weft.frontend.chat.answer_parser import ALPHABET
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.render import described, written_calls, written_results
from weft.frontend.chat.template_probe import REASONING_FIELDS, TemplateKnows
from weft.frontend.chat.tool_forms import TOOL_FORMS, ToolForm
from weft.frontend.chat.tools import Tool

Message = dict[str, Any]


def for_template(messages: Sequence[Message], forms: ChatForms, tools: Sequence[Tool] = ()) -> list[Message]:
    """`messages` with checked fields, as clients send them. `tools`: described in the system message where the template
    shows none."""
    knows, form = forms.knows, forms.tools or TOOL_FORMS["hermes"]
    own = knows.form is not None and knows.form.name == form.name
    as_text = knows.calls is None or (forms.describes and not own)
    turns = _named_results([_turn(message, knows, form, as_text) for message in messages])
    if as_text or not knows.results:
        turns = list(_as_users(turns))
    elif not knows.several:
        turns = list(_one_call_each(turns))
    return _with_system(turns, described(tools, form), knows) if tools and forms.describes else turns


def _turn(message: Message, knows: TemplateKnows, form: ToolForm, as_text: bool) -> Message:
    turn = {name: value for name, value in message.items() if name not in REASONING_FIELDS}
    thoughts = next((message[name] for name in REASONING_FIELDS if message.get(name)), None)
    if thoughts is not None and knows.reasoning_field is not None:
        turn[knows.reasoning_field] = thoughts
    calls = turn.pop("tool_calls", None)
    if calls and as_text:
        text = written_calls(form, [(call["function"]["name"], _json_text(call)) for call in calls])
        turn["content"] = "\n".join(filter(None, (turn.get("content"), text)))
    elif calls:
        turn["tool_calls"] = [_call(call, knows, form) for call in calls]
    if turn.get("content") is None and not (calls and knows.null_content):
        turn["content"] = ""
    if "tool_call_id" in turn:
        turn["tool_call_id"] = _id(turn["tool_call_id"], form)
    return turn


def _call(call: Mapping[str, Any], knows: TemplateKnows, form: ToolForm) -> Message:
    text = _json_text(call)
    function: dict[str, Any] = {"name": call["function"]["name"], "arguments": text}
    if knows.calls == "object":
        try:
            function["arguments"] = json.loads(text)
        except ValueError:
            pass  # an answer that was cut off: as it is
    return {**call, "id": _id(call.get("id") or "", form), "function": function}


def _json_text(call: Mapping[str, Any]) -> str:
    return str(call["function"].get("arguments") or "{}")


def _id(given: str, form: ToolForm) -> str:
    """The id, or, where the form's ids are nine letters or digits, as many made of it."""
    if form.ids != "nine" or (len(given) == 9 and all(character in ALPHABET for character in given)):
        return given
    digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:9])


def _named_results(messages: Sequence[Message]) -> list[Message]:
    """A result with the name of the tool that was called, which some templates show."""
    names: dict[str, str] = {}
    made = []
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message = {**message, "name": names[message["tool_call_id"]]}
        made.append(message)
    return made


def _as_users(messages: Sequence[Message]) -> Iterator[Message]:
    """Results as one message of the user, where a template has no place for them."""
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(message["content"])
            continue
        if results:
            yield {"role": "user", "content": written_results(results)}
            results = []
        yield message
    if results:
        yield {"role": "user", "content": written_results(results)}


def _one_call_each(messages: Sequence[Message]) -> Iterator[Message]:
    """A turn with several calls as one turn for each, with its result after it."""
    left = list(messages)
    while left:
        message = left.pop(0)
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            yield message
            continue
        results = {}
        while left and left[0]["role"] == "tool":
            result = left.pop(0)
            results[result.get("tool_call_id")] = result
        for at, call in enumerate(calls):
            yield {**message, "content": message["content"] if at == 0 else "", "tool_calls": [call]}
            if (found := results.pop(call["id"], None)) is not None:
                yield found
        yield from results.values()


def _with_system(messages: Sequence[Message], text: str, knows: TemplateKnows) -> list[Message]:
    """`text` at the end of the system message, or before the user's first where the template takes none."""
    role = "system" if knows.system else "user"
    at = next((at for at, message in enumerate(messages) if message["role"] == role), None)
    if role == "system" and at != 0:
        return [{"role": "system", "content": text}, *messages]
    if at is None:
        return [{"role": "user", "content": text}, *messages]
    own = str(messages[at]["content"])
    parts = (own, text) if role == "system" else (text, own)
    return [*messages[:at], {**messages[at], "content": "\n\n".join(filter(None, parts))}, *messages[at + 1 :]]
