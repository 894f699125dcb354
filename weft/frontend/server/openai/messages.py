"""Chat messages as clients send them, checked: roles, text, tool calls. Keys and roles that are not known stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from weft.base.errors import RequestError

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
        raise RequestError("'messages' is empty", param="messages", code="invalid_value")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def check_depth(value: object, at: str) -> None:
    """RequestError: lists and objects of `value` lie too deep inside each other."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for one in level for item in _items(one) if isinstance(item, dict | list)]
        if not level:
            return
    raise RequestError(f"'{at}' is nested more than {MAX_DEPTH} deep", param=at, code="invalid_value")


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _message(message: dict[str, Any], at: str) -> dict[str, Any]:
    given = {name: value for name, value in message.items() if value is not None}
    check_depth(given, at)
    for name in _NOT_SUPPORTED:
        if given.pop(name, None):
            raise RequestError(f"'{at}.{name}' is not supported", param=f"{at}.{name}", code="unsupported_parameter")
    given["role"] = _role(given, at)
    calls = given.pop("tool_calls", None)
    if calls:
        given["tool_calls"] = _calls(calls, f"{at}.tool_calls")
    if "content" in given:
        given["content"] = _text(given["content"], f"{at}.content")
    elif given["role"] == "assistant" and "content" in message:
        given["content"] = ""
    elif given["role"] != "assistant" or not (calls or _thoughts(given)):
        raise RequestError(f"'{at}.content' is missing", param=f"{at}.content", code="missing_required_parameter")
    for name in ("name", "tool_call_id", "reasoning_content", "reasoning"):
        if name in given:
            given[name] = _string(given[name], f"{at}.{name}")
    return given


def _thoughts(given: dict[str, Any]) -> object:
    return given.get("reasoning_content") or given.get("reasoning")


def _role(given: dict[str, Any], at: str) -> str:
    role = given.get("role")
    if role is None:
        raise RequestError(f"'{at}.role' is missing", param=f"{at}.role", code="missing_required_parameter")
    if not isinstance(role, str) or not 0 < len(role) <= MAX_ROLE:
        shown = role[:40] if isinstance(role, str) else type(role).__name__
        legal = f"{', '.join(ROLES)}, or another word of the chat template"
        raise RequestError(f"'{at}.role' is {shown!r}; legal: {legal}", param=f"{at}.role", code="invalid_value")
    return "system" if role == "developer" else role


def _calls(calls: object, at: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"'{at}' is not a list", param=at, code="invalid_type")
    return [_call(call, f"{at}[{index}]") for index, call in enumerate(calls)]


def _call(call: object, at: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise RequestError(
            f"'{at}.function' is missing: a call has an id, type 'function' and a function with name and arguments",
            param=f"{at}.function",
            code="missing_required_parameter",
        )
    kind = call.get("type") or "function"
    if kind != "function":
        raise RequestError(
            f"'{at}.type' is {str(kind)[:40]!r}; legal: 'function'", param=f"{at}.type", code="unsupported_value"
        )
    name = _string(function.get("name"), f"{at}.function.name")
    arguments = function.get("arguments")
    text = "{}" if arguments is None else _string(arguments, f"{at}.function.arguments")
    id = "" if call.get("id") is None else _string(call["id"], f"{at}.id")
    return {**call, "id": id, "type": "function", "function": {"name": name, "arguments": text}}


def _text(content: object, at: str) -> str:
    if isinstance(content, list):
        return "".join(_part(part, f"{at}[{index}]") for index, part in enumerate(content))
    return _string(content, at)


def _part(part: object, at: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in _TEXT_PARTS:
        shown = kind[:40] if isinstance(kind, str) else type(part).__name__
        raise RequestError(
            f"'{at}.type' is {shown!r}; this server takes text only", param=f"{at}.type", code="unsupported_value"
        )
    return _string(part.get(_TEXT_PARTS[kind]), f"{at}.{_TEXT_PARTS[kind]}")


def _string(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"'{at}' is not a string", param=at, code="invalid_type")
    return value
