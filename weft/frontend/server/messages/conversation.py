"""A conversation of the Messages API as messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weft.frontend.server.errors import refuse, shown_value
from weft.frontend.server.messages.requests import Blocks, CountTokensRequest, ThinkingEdit
from weft.frontend.server.openai.messages import check_depth, checked_string, part_text

Message = dict[str, Any]

ROLES = ("user", "assistant", "system")
OF_USER, OF_ASSISTANT = ("text", "tool_result"), ("text", "thinking", "tool_use")
STRINGS = {"text": ("text",), "thinking": ("thinking",), "tool_use": ("id", "name"), "tool_result": ("tool_use_id",)}
"""Fields of each kind of block that are strings."""
TEXT = {"text": "text"}
"""The kind of block that system prompts and results have, and its field."""
BILLING = "x-anthropic-billing-header:"
"""Begins a block of the system prompt that an agent adds for its maker: it is another in each request, and would keep
the prefix cache from finding the rest."""


def chat_messages(asked: CountTokensRequest) -> list[Message]:
    """Messages with OpenAI's fields. Turns of one role that follow each other are one turn. RequestError names what is
    no message, as in `messages[1].content[0].type`."""
    if not asked.messages:
        refuse("messages", "it is empty")
    turns = [_turn(message, f"messages[{at}]") for at, message in enumerate(asked.messages)]
    merged: list[tuple[str, list[tuple[str, Message]]]] = []
    for role, blocks in turns:
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        else:
            merged.append((role, blocks))
    made = [message for role, blocks in _cleared(merged, asked) for message in _messages(role, blocks)]
    if made and made[-1].get("tool_calls"):
        refuse("messages", "the last one has a 'tool_use' whose result is missing")
    system = _system(asked.system)
    return [{"role": "system", "content": system}, *made] if system else made


def _system(given: str | Blocks | None) -> str:
    if not isinstance(given, list):
        return given or ""
    texts = [part_text(block, f"system[{at}]", TEXT) for at, block in enumerate(given)]
    return "\n".join(text for text in texts if not text.startswith(BILLING))


def _turn(message: Mapping[str, Any], at: str) -> tuple[str, list[tuple[str, Message]]]:
    """(role, blocks, each with its place)."""
    check_depth(message, at)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        refuse(f"{at}.role", f"it is {shown_value(role)}; legal: {', '.join(ROLES)}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        refuse(f"{at}.content", "it is neither a string nor a list of blocks", "invalid_type")
    places = [f"{at}.content[{index}]" for index in range(len(content))]
    return role, [(place, _block(block, place, role)) for place, block in zip(places, content, strict=True)]


def _block(block: object, at: str, role: str) -> Message:
    """A block that the role may have, with its fields."""
    kind = block.get("type") if isinstance(block, dict) else None
    legal = {"user": OF_USER, "assistant": OF_ASSISTANT, "system": ("text",)}[role]
    if not isinstance(block, dict) or kind not in legal:
        shown = shown_value(kind if isinstance(kind, str) else block)
        words = "" if kind in (*OF_USER, *OF_ASSISTANT) else "; this server takes text and calls of the client's tools"
        problem = f"it is {shown}{words}; legal in a turn of the {role}: {', '.join(legal)}"
        refuse(f"{at}.type", problem, "unsupported_value")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        refuse(f"{at}.input", "it is not an object", "invalid_type")
    for name in STRINGS[str(kind)]:
        checked_string(block.get(name), f"{at}.{name}")
    return block


def _messages(role: str, blocks: Sequence[tuple[str, Message]]) -> Iterator[Message]:
    if role == "assistant":
        yield _assistant([block for _, block in blocks])
        return
    texts: list[str] = []
    for at, block in blocks:
        if block["type"] == "text":
            texts.append(block["text"])
            continue
        if texts:
            yield {"role": role, "content": "\n".join(texts)}
            texts = []
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _result(block, at)}
    if texts or not blocks:
        yield {"role": role, "content": "\n".join(texts)}


def _assistant(blocks: Sequence[Message]) -> Message:
    """Text blocks of one turn are parts of one text."""
    message: Message = {"role": "assistant"}
    message["content"] = "".join(block["text"] for block in blocks if block["type"] == "text")
    if thoughts := "".join(block["thinking"] for block in blocks if block["type"] == "thinking"):
        message["reasoning_content"] = thoughts
    calls = [_call(block) for block in blocks if block["type"] == "tool_use"]
    return {**message, "tool_calls": calls} if calls else message


def _call(block: Message) -> Message:
    arguments = json.dumps(block["input"], ensure_ascii=False)
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _result(block: Message, at: str) -> str:
    content, is_error = block.get("content"), block.get("is_error")
    if is_error is not None and not isinstance(is_error, bool):
        refuse(f"{at}.is_error", "it is not true or false", "invalid_type")
    if isinstance(content, list):
        content = "\n".join(part_text(part, f"{at}.content[{index}]", TEXT) for index, part in enumerate(content))
    if content is not None and not isinstance(content, str):
        refuse(f"{at}.content", "it is neither a string nor a list of blocks", "invalid_type")
    return f"Error: {content or 'the tool failed'}" if is_error else content or ""


def _cleared(
    turns: Sequence[tuple[str, list[tuple[str, Message]]]], asked: CountTokensRequest
) -> list[tuple[str, list[tuple[str, Message]]]]:
    """Without the thoughts that `context_management` has cleared."""
    edits = asked.context_management.edits if asked.context_management else []
    kept = min((count for edit in edits if (count := _kept_turns(edit)) is not None), default=None)
    if kept is None:
        return list(turns)
    thinking = [at for at, (_, blocks) in enumerate(turns) if any(block["type"] == "thinking" for _, block in blocks)]
    stay = set(thinking[-kept:])
    return [
        (role, blocks if at in stay else [each for each in blocks if each[1]["type"] != "thinking"])
        for at, (role, blocks) in enumerate(turns)
    ]


def _kept_turns(edit: ThinkingEdit) -> int | None:
    """Of how many of the last turns the thoughts stay: 1 where nothing is said. None: of all."""
    if edit.keep == "all":
        return None
    if edit.keep is None:
        return 1
    value = edit.keep.get("value")
    if edit.keep.get("type") != "thinking_turns" or type(value) is not int or value < 1:
        legal = 'legal: "all", or {"type": "thinking_turns", "value": 1 or more}'
        refuse("context_management.edits.keep", f"it is neither; {legal}")
    return value
