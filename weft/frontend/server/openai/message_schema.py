"""The schema of a chat's messages, which are checked by hand, for /openapi.json."""

from __future__ import annotations

from typing import Any

from weft.frontend.server.openai.messages import MAX_ROLE, ROLES
from weft.frontend.server.openai.requests import ChatRequest, TokenizeChatRequest

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"


def with_messages(components: Schema) -> None:
    """Puts the messages of a chat into the records that have them."""
    components["ChatMessage"] = _message()
    for kind in (ChatRequest, TokenizeChatRequest):
        messages = {"type": "array", "items": {"$ref": REF.format(name="ChatMessage")}, "minItems": 1}
        components[kind.__name__]["properties"]["messages"] = messages


def _message() -> Schema:
    texts = [
        {
            "type": "object",
            "properties": {"type": {"enum": kinds}, name: {"type": "string"}},
            "required": ["type", name],
        }
        for name, kinds in (("text", ["text", "input_text", "output_text"]), ("refusal", ["refusal"]))
    ]
    text = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": texts}}, {"type": "null"}]}
    function = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "null"]}},
        "required": ["name"],
    }
    call = {
        "type": "object",
        "properties": {"id": {"type": ["string", "null"]}, "type": {"const": "function"}, "function": function},
        "required": ["function"],
    }
    optional = {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": {
            "role": {"type": "string", "minLength": 1, "maxLength": MAX_ROLE, "examples": ["developer", *ROLES]},
            "content": text,
            "name": optional,
            "tool_calls": {"anyOf": [{"type": "array", "items": call}, {"type": "null"}]},
            "tool_call_id": optional,
            "reasoning_content": optional,
            "reasoning": optional,
        },
        "required": ["role"],
        "additionalProperties": {"description": "To the chat template."},
    }
