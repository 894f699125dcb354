"""The fields of a chat that say which tools it offers, checked by name, as records."""

from __future__ import annotations

from typing import Any

import msgspec

from weft.base.errors import RequestError
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.patterns import MOST_LETTERS, NAME_CHARACTERS
from weft.frontend.chat.tools import NO_TOOLS, Mode, Tool, ToolUse
from weft.frontend.server.errors import refuse, shown_value
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.openai.messages import check_depth
from weft.frontend.server.openai.requests import MAX_TOOLS
from weft.frontend.server.tools.translation import custom_function, leave_out_tool, unforced

MAX_SCHEMA = 1 << 16
"""Bytes of a tool's parameters, packed."""

CALLED = ("function", "custom")
"""Types of tools that an answer can call."""
PLACE, NAMESPACE = "weft_place", "weft_namespace"
"""Of a tool that another API's was made of: where it stands there, and its namespace."""
LEGAL_CHOICES = '\'auto\', \'required\', \'none\', or {"type": "function", "function": {"name": ...}}'


def tool_use(
    tools: list[dict[str, Any]] | None, choice: object, parallel: bool, forms: ChatForms, notes: Notes
) -> ToolUse:
    """What the three fields ask for. RequestError names the field that is wrong, or says that tools are refused."""
    offered = tuple(tool for index, given in enumerate(tools or ()) if (tool := _tool(given, index, notes)) is not None)
    if not offered:
        if tools and choice not in (None, "auto", "none"):
            raise unforced(choice)
        if choice not in (None, "auto", "none"):
            refuse("tool_choice", "it needs 'tools'")
        return NO_TOOLS
    if forms.tools is None:
        raise RequestError(
            "'tools' is not supported by this server: it was started with --tool-call-parser none, or its model has no"
            " chat template",
            param="tools",
            code="unsupported_parameter",
        )
    if len(offered) > MAX_TOOLS:
        refuse("tools", f"it has {len(offered)} entries; legal: at most {MAX_TOOLS}")
    names = [tool.name for tool in offered]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        refuse("tools", f"'{twice}' is there twice")
    mode, only = _choice(choice, names)
    return ToolUse(offered=offered, mode=mode, only=only, parallel=parallel and not _is_named(choice))


def _is_named(choice: object) -> bool:
    return isinstance(choice, dict) and choice.get("type") in CALLED


def _tool(tool: dict[str, Any], index: int, notes: Notes) -> Tool | None:
    """None: it is left out. `at`: its place in the request, where another API has it elsewhere."""
    at, kind = str(tool.get(PLACE, f"tools[{index}]"))[:80], tool.get("type", "function")
    if kind not in CALLED:
        leave_out_tool(kind, at, notes, "'function', 'custom'")
        return None
    custom = tool.get("custom") if kind == "custom" else None
    function = tool.get("function") if custom is None else custom
    if not isinstance(function, dict):
        refuse(f"{at}.{kind}", "it is missing", "missing_required_parameter")
    if custom is not None:
        function = custom_function(function)
    inside = f"{at}.{kind}"
    name = function.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MOST_LETTERS or not NAME_CHARACTERS.issuperset(name):
        legal = f"1 to {MOST_LETTERS} letters, digits and _ . : / -"
        refuse(f"{inside}.name", f"it is {shown_value(name)}; legal: {legal}")
    description, strict = function.get("description"), function.get("strict")
    if description is not None and not isinstance(description, str):
        refuse(f"{inside}.description", "it is not a string", "invalid_type")
    if strict is not None and not isinstance(strict, bool):
        refuse(f"{inside}.strict", "it is not true or false", "invalid_type")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        refuse(f"{inside}.parameters", "it is not a JSON Schema object", "invalid_type")
    _check_size(parameters, f"{inside}.parameters")
    return Tool(
        name=name, description=description, parameters=parameters, strict=bool(strict), custom=custom is not None,
        namespace=tool.get(NAMESPACE), at=at,
    )  # fmt: skip


def _check_size(parameters: dict[str, Any], at: str) -> None:
    """Before anything goes through it: its depth, its numbers and its size."""
    check_depth(parameters, at)
    try:
        size = len(msgspec.msgpack.encode(parameters))
    except OverflowError:
        refuse(at, "it has a whole number that 64 bits cannot hold")
    if size > MAX_SCHEMA:
        refuse(at, f"it has over {MAX_SCHEMA} bytes")


def _choice(choice: object, names: list[str]) -> tuple[Mode, tuple[str, ...] | None]:
    """Whether an answer may or must call, and which tools; None: all."""
    if choice is None or choice == "auto":
        return "auto", None
    if choice == "required" or choice == "any":
        return "required", None
    if choice == "none":
        return "none", None
    if _is_named(choice):
        return "required", (_named(choice, names, "tool_choice"),)
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
        given = [one for one in allowed["tools"] if not isinstance(one, dict) or one.get("type", "function") in CALLED]
        if allowed["tools"] and not given:
            raise unforced(choice)
        only = [_named(one, names, "tool_choice.allowed_tools.tools") for one in given]
        if not only:
            refuse("tool_choice.allowed_tools.tools", "it is empty; name one or more of the tools")
        if (mode := allowed.get("mode")) not in ("auto", "required"):
            refuse("tool_choice.allowed_tools.mode", f"it is {str(mode)[:40]!r}; legal: 'auto', 'required'")
        return ("required" if mode == "required" else "auto"), tuple(only)
    refuse("tool_choice", f"it is {shown_value(choice)}; legal: {LEGAL_CHOICES}")


def _named(choice: object, names: list[str], at: str) -> str:
    function = choice.get("function", choice.get("custom", choice)) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        refuse(f"{at}.function.name", "it is missing", "missing_required_parameter")
    if name not in names:
        refuse("tool_choice", f"'{name[:40]}' is none of the tools: {', '.join(names)[:200]}")
    return name
