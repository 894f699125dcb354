"""A request of the Messages API as a request for a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from weft.frontend.server.errors import refuse
from weft.frontend.server.messages.conversation import chat_messages
from weft.frontend.server.messages.requests import CountTokensRequest, MessagesRequest, ToolChoice
from weft.frontend.server.openai.requests import ChatRequest
from weft.frontend.server.openai.structured import NamedSchema, ResponseFormat
from weft.frontend.server.openai.tool_fields import PLACE
from weft.frontend.server.tools.client_tools import client_function

NAMES: Mapping[str, str] = {
    "tools[].function.parameters": "tools[].input_schema",
    "tools[].function": "tools[]",
    "tool_choice.function": "tool_choice",
    "response_format.json_schema": "output_config.format",
    "thinking_token_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
}
"""A chat's fields, in the words of this API."""


def chat_of(asked: CountTokensRequest, defaults: Mapping[str, Any]) -> ChatRequest:
    """RequestError names what is not served."""
    messages = chat_messages(asked)
    thinking, output = asked.thinking, asked.output_config
    given: dict[str, Any] = {
        "messages": messages,
        "model": asked.model,
        "tools": None if asked.tools is None else [_tool(tool, f"tools[{at}]") for at, tool in enumerate(asked.tools)],
        "continue_final_message": messages[-1]["role"] == "assistant",
        "reasoning_effort": output.effort if output else None,
        "response_format": _format(asked),
    }
    if asked.tool_choice is not None:
        given |= _choice(asked.tool_choice)
    if thinking is not None and thinking.type != "adaptive":
        given["enable_thinking"] = thinking.type == "enabled"
    if thinking is not None:
        given["thinking_token_budget"] = _budget(asked)
        given["include_reasoning"] = thinking.display != "omitted"
    if isinstance(asked, MessagesRequest):
        given |= _sampling(asked)
    return ChatRequest(**{**defaults, **{name: value for name, value in given.items() if value is not None}})


def _sampling(asked: MessagesRequest) -> dict[str, Any]:
    return {
        "max_tokens": max(1, asked.max_tokens),
        "stream": asked.stream,
        "stop": asked.stop_sequences,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
    }


def _budget(asked: CountTokensRequest) -> int | None:
    thinking = asked.thinking
    assert thinking is not None
    if thinking.budget_tokens is None:
        if thinking.type == "enabled":
            refuse("thinking.budget_tokens", "it is missing", "missing_required_parameter")
        return None
    if thinking.type != "enabled":
        refuse("thinking.budget_tokens", f"it is for the type 'enabled', and the type is '{thinking.type}'")
    if thinking.budget_tokens < 1:
        refuse("thinking.budget_tokens", f"it is {str(thinking.budget_tokens)[:20]}; legal: 1 or more")
    return thinking.budget_tokens


def _format(asked: CountTokensRequest) -> ResponseFormat | None:
    """A schema is kept to the letter, or refused."""
    newer = asked.output_config.format if asked.output_config else None
    if newer is not None and asked.output_format is not None:
        refuse("output_format", "it says the same as 'output_config.format'; give one of them")
    found = newer or asked.output_format
    if found is None:
        return None
    return ResponseFormat(type="json_schema", json_schema=NamedSchema(schema=found.schema, strict=True))


def _tool(tool: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A tool of the client's own; others keep their type, and are left out later. `cache_control`, `defer_loading` and
    `eager_input_streaming` change nothing."""
    if (function := client_function(tool)) is not None:
        return {"type": "function", "function": function, PLACE: at}
    if tool.get("type") not in (None, "custom"):
        return {"type": tool["type"], PLACE: at}
    callers = tool.get("allowed_callers")
    if callers is not None and (not isinstance(callers, list) or "direct" not in callers):
        refuse(f"{at}.allowed_callers", "only the model calls tools; legal: lists with 'direct'", "unsupported_value")
    if "input_schema" not in tool:
        refuse(f"{at}.input_schema", "it is missing", "missing_required_parameter")
    function = {
        "name": tool.get("name"),
        "description": _described(tool, at),
        "parameters": tool["input_schema"],
        "strict": tool.get("strict"),
    }
    return {"type": "function", "function": function, PLACE: at}


def _described(tool: Mapping[str, Any], at: str) -> object:
    """The description, and the examples, which a chat's tools have no field for."""
    examples = tool.get("input_examples")
    if not examples:
        return tool.get("description")
    if not isinstance(examples, list):
        refuse(f"{at}.input_examples", "it is not a list", "invalid_type")
    lines = [json.dumps(example, ensure_ascii=False) for example in examples]
    return "\n".join([str(tool.get("description") or ""), "Examples of its input:", *lines]).lstrip()


def _choice(choice: ToolChoice) -> dict[str, Any]:
    made: dict[str, Any] = {"parallel_tool_calls": not choice.disable_parallel_tool_use}
    if choice.type != "tool":
        return made | {"tool_choice": {"any": "required"}.get(choice.type, choice.type)}
    if choice.name is None:
        refuse("tool_choice.name", "it is missing", "missing_required_parameter")
    return made | {"tool_choice": {"type": "function", "function": {"name": choice.name}}}
