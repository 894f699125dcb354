"""Chat messages as clients send them, checked: roles, text, tool calls. Keys and roles that are not known stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from weft.frontend.server.errors import refuse, shown_value
from weft.frontend.server.tools.translation import arguments_of

ROLES = ("system", "user", "assistant", "tool")
"""`developer` is OpenAI's newer word for `system` and is taken as that. Others are for templates that know them."""
MAX_ROLE = 64
MAX_DEPTH = 64
"""Lists and objects inside each other, in fields that the template gets as they are."""

_NOT_SUPPORTED = ("audio", "function_call")
"""Fields of OpenAI's messages that clients send back; accepted while they carry nothing."""
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of content parts that are text, and the field that has it."""


def checked_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with a role, and a text where they have content; fields without a value are left out. RequestError names
    the field, as in `messages[0].content[1].type`."""
    if not messages:
        refuse("messages", "it is empty")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def check_depth(value: object, at: str) -> None:
    """RequestError: lists and objects of `value` lie too deep inside each other."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for one in level for item in _items(one) if isinstance(item, dict | list)]
        if not level:
            return
    refuse(at, f"it is nested more than {MAX_DEPTH} deep")


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _message(message: dict[str, Any], at: str) -> dict[str, Any]:
    given = {name: value for name, value in message.items() if value is not None}
    check_depth(given, at)
    for name in _NOT_SUPPORTED:
        if given.pop(name, None):
            refuse(f"{at}.{name}", "it is not supported", "unsupported_parameter")
    given["role"] = _role(given, at)
    calls = given.pop("tool_calls", None)
    if calls:
        given["tool_calls"] = _calls(calls, f"{at}.tool_calls")
    if "content" in given:
        given["content"] = _text(given["content"], f"{at}.content")
    elif given["role"] == "assistant" and "content" in message:
        given["content"] = ""
    elif given["role"] != "assistant" or not (calls or _thoughts(given)):
        refuse(f"{at}.content", "it is missing", "missing_required_parameter")
    for name in ("name", "tool_call_id", "reasoning_content", "reasoning"):
        if name in given:
            given[name] = checked_string(given[name], f"{at}.{name}")
    return given


def _thoughts(given: dict[str, Any]) -> object:
    return given.get("reasoning_content") or given.get("reasoning")


def _role(given: dict[str, Any], at: str) -> str:
    role = given.get("role")
    if role is None:
        refuse(f"{at}.role", "it is missing", "missing_required_parameter")
    if not isinstance(role, str) or not 0 < len(role) <= MAX_ROLE:
        legal = f"{', '.join(ROLES)}, or another word of the chat template"
        refuse(f"{at}.role", f"it is {shown_value(role)}; legal: {legal}")
    return "system" if role == "developer" else role


def _calls(calls: object, at: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        refuse(at, "it is not a list", "invalid_type")
    return [_call(call, f"{at}[{index}]") for index, call in enumerate(calls)]


def _call(call: object, at: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(call, dict) and call.get("type") == "custom" and isinstance(custom := call.get("custom"), dict):
        text = checked_string(custom.get("input"), f"{at}.custom.input")
        function = {"name": custom.get("name"), "arguments": arguments_of(text)}
        call = {name: value for name, value in call.items() if name != "custom"} | {"type": "function"}
    if not isinstance(call, dict) or not isinstance(function, dict):
        what = "it is missing: a call has an id, type 'function' and a function with name and arguments"
        refuse(f"{at}.function", what, "missing_required_parameter")
    kind = call.get("type") or "function"
    if kind != "function":
        refuse(f"{at}.type", f"it is {shown_value(kind)}; legal: 'function'", "unsupported_value")
    name = checked_string(function.get("name"), f"{at}.function.name")
    arguments = function.get("arguments")
    text = "{}" if arguments is None else checked_string(arguments, f"{at}.function.arguments")
    id = "" if call.get("id") is None else checked_string(call["id"], f"{at}.id")
    return {**call, "id": id, "type": "function", "function": {"name": name, "arguments": text}}


def _text(content: object, at: str) -> str:
    if isinstance(content, list):
        return "".join(part_text(part, f"{at}[{index}]") for index, part in enumerate(content))
    return checked_string(content, at)


def part_text(part: object, at: str, kinds: Mapping[str, str] = _TEXT_PARTS) -> str:
    """The text of a part of a message. RequestError: its type is none of `kinds`, each with the field that has it."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in kinds:
        shown = shown_value(kind if isinstance(kind, str) else part)
        refuse(f"{at}.type", f"it is {shown}; this server takes text only", "unsupported_value")
    return checked_string(part.get(kinds[kind]), f"{at}.{kinds[kind]}")


def checked_string(value: object, at: str) -> str:
    """RequestError: it is none."""
    if not isinstance(value, str):
        missing = ("it is missing", "missing_required_parameter")
        refuse(at, *(missing if value is None else ("it is not a string", "invalid_type")))
    return value
