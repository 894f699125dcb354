"""Items of a request: checked, in one form, and as messages of a chat."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from weft.frontend.server.errors import refuse, shown_value
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.openai.messages import check_depth, checked_string, part_text
from weft.frontend.server.responses.requests import Item, Items
from weft.frontend.server.tools.translation import arguments_of, name_in

KINDS = (
    "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning",
)  # fmt: skip
OF_SERVERS = (
    "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_list_tools",
    "mcp_call", "tool_search_call", "tool_search_output", "compaction",
)  # fmt: skip
"""What other servers' own tools leave in a conversation."""
ROLES = ("user", "assistant", "system", "developer")


def checked_items(given: str | Items, notes: Notes) -> Items:
    """Without those of a server's own tools. Each with an id, a status and its text in parts. RequestError names what
    is no item, as in `input[1].content[0].type`."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        refuse("input", "it is empty")
    return [_item(item, f"input[{at}]") for at, item in enumerate(given) if not _left_out(item, f"input[{at}]", notes)]


def _left_out(item: Item, at: str, notes: Notes) -> bool:
    if notes.strict or item.get("type") not in OF_SERVERS:
        return False
    notes.leave_out(f"{re.sub(r'[0-9]+', '', at)}.{item['type']}", "this server has no tools of its own")
    return True


def _item(item: Item, at: str) -> Item:
    check_depth(item, at)
    kind = item.get("type", "message" if "role" in item else None)
    if kind not in KINDS:
        shown = shown_value(kind)
        refuse(f"{at}.type", f"it is {shown}; legal: {', '.join(KINDS)}", "unsupported_value")
    if kind == "message":
        return _message(item, at)
    if kind in ("function_call", "custom_tool_call"):
        text = "arguments" if kind == "function_call" else "input"
        made = {name: checked_string(item.get(name), f"{at}.{name}") for name in ("call_id", "name", text)}
        if item.get("namespace") is not None:
            made["namespace"] = checked_string(item["namespace"], f"{at}.namespace")
        return {"type": kind, "id": _id(item, "fc", at), **made, "status": "completed"}
    if kind in ("function_call_output", "custom_tool_call_output"):
        output = item.get("output")
        if isinstance(output, list):
            output = [_input_text(part_text(part, f"{at}.output[{i}]")) for i, part in enumerate(output)]
        elif not isinstance(output, str):
            refuse(f"{at}.output", "it is neither a string nor a list of parts", "invalid_type")
        call = checked_string(item.get("call_id"), f"{at}.call_id")
        return {"type": kind, "id": _id(item, "fco", at), "call_id": call, "output": output, "status": "completed"}
    return _reasoning(item, at)


def _message(item: Item, at: str) -> Item:
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        shown = shown_value(role)
        refuse(f"{at}.role", f"it is {shown}; legal: {', '.join(ROLES)}")
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, list):
        texts = [part_text(part, f"{at}.content[{index}]") for index, part in enumerate(content)]
    else:
        refuse(f"{at}.content", "it is neither a string nor a list of parts", "invalid_type")
    make = _output_text if role == "assistant" else _input_text
    parts = [make(text) for text in texts]
    return {"type": "message", "id": _id(item, "msg", at), "role": role, "content": parts, "status": "completed"}


def _reasoning(item: Item, at: str) -> Item:
    """Its content, or else its summary. What is encrypted is for the server that has the key."""
    made: Item = {"type": "reasoning", "id": _id(item, "rs", at), "summary": _thoughts(item, "summary", at)}
    if content := _thoughts(item, "content", at):
        made["content"] = content
    return made


def _thoughts(item: Item, name: str, at: str) -> Items:
    given = item.get(name)
    if given is None:
        return []
    if not isinstance(given, list):
        refuse(f"{at}.{name}", "it is not a list", "invalid_type")
    kind = {"summary": "summary_text", "content": "reasoning_text"}[name]
    made = []
    for index, part in enumerate(given):
        where = f"{at}.{name}[{index}]"
        if not isinstance(part, dict) or part.get("type") != kind:
            refuse(f"{where}.type", f"legal: '{kind}'", "unsupported_value")
        made.append({"type": kind, "text": checked_string(part.get("text"), f"{where}.text")})
    return made


def _input_text(text: str) -> Item:
    return {"type": "input_text", "text": text}


def _output_text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _id(item: Item, prefix: str, at: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}" if item.get("id") is None else checked_string(item.get("id"), f"{at}.id")


def chat_messages(items: Sequence[Item], instructions: str | None) -> list[dict[str, Any]]:
    """Checked items as messages with a chat's fields. Reasoning, text and calls of the assistant that follow each other
    are one message; so are the instructions and system messages at the start."""
    made: list[dict[str, Any]] = []
    if instructions:
        made.append({"role": "system", "content": instructions})
    for item in items:
        message = _as_message(item)
        before = made[-1] if made else None
        if before is not None and _joins(before, message):
            made[-1] = _joined(before, message)
        else:
            made.append(message)
    return made


def _as_message(item: Item) -> dict[str, Any]:
    match item["type"]:
        case "message":
            content = "".join(part["text"] for part in item["content"])
            return {"role": "system" if item["role"] == "developer" else item["role"], "content": content}
        case "function_call" | "custom_tool_call":
            arguments = item["arguments"] if "arguments" in item else arguments_of(item["input"])
            function = {"name": name_in(item.get("namespace"), item["name"]), "arguments": arguments}
            call = {"id": item["call_id"], "type": "function", "function": function}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case "function_call_output" | "custom_tool_call_output":
            output = item["output"]
            text = output if isinstance(output, str) else "\n".join(part["text"] for part in output)
            return {"role": "tool", "tool_call_id": item["call_id"], "content": text}
        case _:
            thoughts = "".join(part["text"] for part in item.get("content") or item["summary"])
            return {"role": "assistant", "content": "", "reasoning_content": thoughts}


def _joins(before: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether a message continues the one before it: an assistant's parts come in the order thoughts, text, calls."""
    if before["role"] != message["role"]:
        return False
    if message["role"] == "system":
        return True
    if message["role"] != "assistant":
        return False
    later = bool(before["content"]) or "tool_calls" in before
    return not ("reasoning_content" in message and later) and not (message["content"] and later)


def _joined(before: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "system":
        return {"role": "system", "content": f"{before['content']}\n\n{message['content']}"}
    made = {**before, **message, "content": before["content"] + message["content"]}
    if calls := [*before.get("tool_calls", []), *message.get("tool_calls", [])]:
        made["tool_calls"] = calls
    return made
