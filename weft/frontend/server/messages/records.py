"""Answers and events of the Messages API as records."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """Text for the reader."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """What the model thought. `signature`: a digest; clients that send thoughts back keep those that have one."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call. `input`: the arguments; of a call that was cut off, what there is of them."""

    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class OutputDetails(msgspec.Struct, frozen=True):
    """Tokens of reasoning."""

    thinking_tokens: int = 0


class MessageUsage(msgspec.Struct, frozen=True):
    """`input_tokens`: tokens of the prompt that did not come from the prefix cache. Nothing is kept for a client alone,
    so no tokens are counted for making a cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    output_tokens_details: OutputDetails
    cache_creation_input_tokens: int = 0


class MessageReply(msgspec.Struct, frozen=True, tag="message"):
    """A whole answer."""

    id: str
    model: str
    content: list[ContentBlock]
    usage: MessageUsage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"


class ModelInfo(msgspec.Struct, frozen=True, tag="model"):
    """One entry of /v1/models, for clients of this API."""

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None
    lifecycle: Literal["active"] = "active"


class ModelInfos(msgspec.Struct, frozen=True):
    """/v1/models, whole."""

    data: list[ModelInfo]
    first_id: str
    last_id: str
    has_more: bool = False


class TokenCount(msgspec.Struct, frozen=True):
    """/v1/messages/count_tokens."""

    input_tokens: int


class MessageStart(msgspec.Struct, frozen=True, tag="message_start"):
    """First event: an answer without content."""

    message: MessageReply


class BlockStart(msgspec.Struct, frozen=True, tag="content_block_start"):
    """A block begins, without its content."""

    index: int
    content_block: ContentBlock


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta"):
    """More of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking_delta"):
    """More of a thought."""

    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag="signature_delta"):
    """A thought is whole."""

    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag="input_json_delta"):
    """More of the JSON text of a call's arguments."""

    partial_json: str


class BlockDelta(msgspec.Struct, frozen=True, tag="content_block_delta"):
    """A block grows."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(msgspec.Struct, frozen=True, tag="content_block_stop"):
    """A block is whole."""

    index: int


class Ending(msgspec.Struct, frozen=True):
    """Why an answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageEnd(msgspec.Struct, frozen=True, tag="message_delta"):
    """How the answer ended, and its usage."""

    delta: Ending
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag="message_stop"):
    """Last event."""


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Says that the connection lives."""


class MessagesFault(msgspec.Struct, frozen=True):
    """What went wrong."""

    type: str
    message: str


class MessagesError(msgspec.Struct, frozen=True, tag="error"):
    """The body of an error, and the event of one."""

    error: MessagesFault


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageEnd | MessageStop | Ping | MessagesError
EVENTS = get_args(Event)
