"""A request of the Responses API as a request for a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weft.frontend.server.errors import refuse
from weft.frontend.server.openai.messages import checked_string
from weft.frontend.server.openai.requests import ChatRequest
from weft.frontend.server.openai.structured import NamedSchema, ResponseFormat
from weft.frontend.server.openai.tool_fields import CALLED, NAMESPACE, PLACE
from weft.frontend.server.responses.items import chat_messages
from weft.frontend.server.responses.requests import Item, ResponsesRequest, TextFormat
from weft.frontend.server.tools.translation import name_in

NAMES: Mapping[str, str] = {
    "tools[].tools[].function": "tools[].tools[]",
    "tools[].tools[].custom": "tools[].tools[]",
    "tools[].custom": "tools[]",
    "tools[].function.parameters": "tools[].parameters",
    "tools[].function": "tools[]",
    "tool_choice.allowed_tools": "tool_choice",
    "tool_choice.function": "tool_choice",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
}
"""A chat's fields, in the words of this API."""
SAME = (
    "model", "parallel_tool_calls", "stream", "temperature", "top_p", "top_logprobs", "top_k", "min_p", "seed", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "priority", "cache_salt", "chat_template_kwargs",
    "include_reasoning",
)  # fmt: skip
"""Fields that a chat has under the same names."""


def chat_of(asked: ResponsesRequest, items: Sequence[Item], defaults: Mapping[str, Any]) -> ChatRequest:
    """`items`: of earlier responses and of this request, checked. RequestError names what is not served."""
    given: dict[str, Any] = {name: getattr(asked, name) for name in SAME}
    given |= {
        "messages": chat_messages(items, asked.instructions),
        "tools": [one for at, tool in enumerate(asked.tools) for one in _tools(tool, f"tools[{at}]")] or None,
        "tool_choice": _choice(asked.tool_choice),
        "response_format": _format(asked.text.format),
        "reasoning_effort": asked.reasoning.effort,
        "max_completion_tokens": asked.max_output_tokens,
        "logprobs": "message.output_text.logprobs" in asked.include or bool(asked.top_logprobs),
    }
    return ChatRequest(**{**defaults, **{name: value for name, value in given.items() if value is not None}})


def _format(given: TextFormat | None) -> ResponseFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return ResponseFormat(type="json_object")
    if given.name is None or given.schema is None:
        name = "name" if given.name is None else "schema"
        refuse(f"text.format.{name}", "it is missing", "missing_required_parameter")
    return ResponseFormat(type="json_schema", json_schema=NamedSchema(schema=given.schema, strict=given.strict))


def _tools(tool: Mapping[str, Any], at: str, namespace: object = None) -> Iterator[dict[str, Any]]:
    """The tool as a chat has it; of a namespace, all in it. Tools that no client runs keep their type, and are left out
    later."""
    kind = tool.get("type")
    if kind == "namespace" and namespace is None:
        inner = tool.get("tools")
        if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
            refuse(f"{at}.tools", "it is no list of tools", "invalid_type")
        name = checked_string(tool.get("name"), f"{at}.name")
        for index, one in enumerate(inner):
            yield from _tools(one, f"{at}.tools[{index}]", name)
    elif kind in CALLED:
        fields = {**tool, "name": name_in(namespace, tool.get("name"))}
        yield {"type": kind, kind: fields, PLACE: at, NAMESPACE: namespace}
    else:
        yield {"type": kind, PLACE: at}


def shown_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the response repeats it: of a function, the fields that an answer depends on."""
    if tool.get("type") != "function":
        return dict(tool)
    return {"type": "function"} | {name: tool.get(name) for name in ("name", "description", "parameters", "strict")}


def _choice(choice: str | Mapping[str, Any]) -> object:
    """The same in a chat's form; what is wrong with it, its own check finds."""
    if isinstance(choice, str):
        return choice
    if (kind := choice.get("type")) in CALLED:
        return {"type": kind, kind: _named(choice)}
    if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
        tools = [
            {"type": one.get("type", "function"), "function": _named(one)} if isinstance(one, dict) else one
            for one in choice["tools"]
        ]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": tools}}
    legal = "'auto', 'required', 'none', or an object of the type 'function' or 'allowed_tools'"
    refuse("tool_choice", f"its type is {str(choice.get('type'))[:40]!r}; legal: {legal}", "unsupported_value")


def _named(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name_in(choice.get("namespace"), choice.get("name"))}
