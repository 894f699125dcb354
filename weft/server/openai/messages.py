"""Chat messages as a template takes them: roles and plain text."""

from __future__ import annotations

from typing import Any

from weft.errors import RequestError

ROLES = ("system", "user", "assistant")
"""`developer` is OpenAI's newer word for `system` and is taken as that."""

_FIELDS = frozenset({"role", "content", "name"})
_NULL_FIELDS = frozenset(
    {"refusal", "audio", "function_call", "tool_calls", "annotations", "reasoning", "reasoning_content", "tool_call_id"}
)
"""Fields that clients send back with an assistant's message; accepted while they carry nothing."""


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Messages with role and text; RequestError names the field, as in `messages[0].content[1].type`."""
    if not messages:
        raise RequestError("'messages' is empty", param="messages", code="invalid_value")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: dict[str, Any], at: str) -> dict[str, str]:
    for name, value in message.items():
        if name not in _FIELDS and (name not in _NULL_FIELDS or value):
            raise RequestError(f"'{at}.{name}' is not supported", param=f"{at}.{name}", code="unsupported_parameter")
    role = message.get("role")
    if role is None:
        raise RequestError(f"'{at}.role' is missing", param=f"{at}.role", code="missing_required_parameter")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        shown = role if isinstance(role, str) else type(role).__name__
        raise RequestError(
            f"'{at}.role' is {shown[:40]!r}; legal: {', '.join(ROLES)}", param=f"{at}.role", code="invalid_value"
        )
    plain = {"role": role, "content": _text(message.get("content"), f"{at}.content")}
    if message.get("name") is not None:
        plain["name"] = _string(message["name"], f"{at}.name")
    return plain


def _text(content: object, at: str) -> str:
    if isinstance(content, list):
        return "".join(_part(part, f"{at}[{index}]") for index, part in enumerate(content))
    if content is None:
        raise RequestError(f"'{at}' is missing", param=at, code="missing_required_parameter")
    return _string(content, at)


def _part(part: object, at: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind != "text":
        shown = kind[:40] if isinstance(kind, str) else type(part).__name__
        raise RequestError(
            f"'{at}.type' is {shown!r}; this server takes text only", param=f"{at}.type", code="unsupported_value"
        )
    return _string(part.get("text"), f"{at}.text")


def _string(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"'{at}' is not a string", param=at, code="invalid_type")
    return value
