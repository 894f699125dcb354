"""Custom tools and namespaces as functions, and back.

A custom tool is a function with one text, `input`. A tool of a namespace is a function called NAMESPACE__tool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from weft.base.errors import RequestError
from weft.frontend.server.errors import refuse, shown_value
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.tools.json_prefix import object_so_far

INPUT = "input"


def custom_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The function that a custom tool becomes. A grammar of its text stands in the description, and is not held."""
    schema = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}
    return {"name": tool.get("name"), "description": _described(tool), "parameters": schema}


def _described(tool: Mapping[str, Any]) -> object:
    description, form = tool.get("description"), tool.get("format")
    grammar = form.get("grammar", form) if isinstance(form, dict) and form.get("type") == "grammar" else None
    definition = grammar.get("definition") if isinstance(grammar, dict) else None
    if not isinstance(definition, str) or not isinstance(description, str | None):
        return description
    return "\n".join([*filter(None, [description]), f"{INPUT} keeps to this grammar:", definition])


def text_of(arguments: str, *, whole: bool = True) -> str | None:
    """The text of a custom tool's call. None: it has not come to its end, and the call is not `whole`."""
    found = object_so_far(arguments).get(INPUT)
    if isinstance(found, str):
        return found
    return arguments if whole else None


def arguments_of(text: str) -> str:
    """The other way."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def name_in(namespace: object, name: object) -> Any:
    """The name of the function that a tool of a namespace becomes."""
    if not isinstance(namespace, str) or not isinstance(name, str) or not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


def name_without(namespace: str, name: str) -> str:
    """The other way."""
    return name.removeprefix(name_in(namespace, "_")[:-1])


def leave_out_tool(kind: object, at: str, notes: Notes, legal: str) -> None:
    """A tool that a server would have to run. RequestError: its type is no word, or `notes` are strict."""
    if notes.strict or not isinstance(kind, str) or not kind:
        why = f"this server has no tools of its own; legal: {legal}"
        refuse(f"{at}.type", f"it is {shown_value(kind)}; {why}", "unsupported_value")
    notes.leave_out(f"{at}.{kind[:40]}", "this server has no tools of its own")


def unforced(choice: object) -> RequestError:
    """A tool is forced that the answer cannot call."""
    kind = choice.get("type") if isinstance(choice, dict) else choice
    message = f"'tool_choice': it is {shown_value(kind)}, and none of the tools that are left can be called so"
    return RequestError(message, param="tool_choice", code="unsupported_value")
