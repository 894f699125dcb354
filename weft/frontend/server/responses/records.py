"""Answers of the Responses API as records."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
FaultCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


class TextLogprobTop(msgspec.Struct, frozen=True):
    """An alternative."""

    token: str
    bytes: list[int]
    logprob: float


class TextLogprob(msgspec.Struct, frozen=True):
    """A token of a text."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TextLogprobTop]


class OutputText(msgspec.Struct, frozen=True, tag="output_text"):
    """Text for the reader."""

    text: str
    logprobs: list[TextLogprob] = []
    annotations: list[None] = []


class ReasoningText(msgspec.Struct, frozen=True, tag="reasoning_text"):
    """What the model thought."""

    text: str


class OutputMessage(msgspec.Struct, frozen=True, tag="message"):
    """A message of the assistant."""

    id: str
    status: ItemStatus
    content: list[OutputText]
    role: Literal["assistant"] = "assistant"


class OutputCall(msgspec.Struct, frozen=True, tag="function_call"):
    """A call of a tool."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: str | UnsetType = UNSET


class OutputCustomCall(msgspec.Struct, frozen=True, tag="custom_tool_call"):
    """A call of a custom tool, whose `input` is a text."""

    id: str
    call_id: str
    name: str
    input: str
    namespace: str | UnsetType = UNSET


class OutputReasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """Reasoning, whole."""

    id: str
    status: ItemStatus
    content: list[ReasoningText]
    summary: list[None] = []


OutputItem = OutputMessage | OutputCall | OutputCustomCall | OutputReasoning


class InputDetails(msgspec.Struct, frozen=True):
    """Tokens of the prompt that came from the prefix cache; none are counted for writing it."""

    cached_tokens: int
    cache_write_tokens: int = 0


class ReasoningDetails(msgspec.Struct, frozen=True):
    """Tokens of reasoning."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: ReasoningDetails
    total_tokens: int


class Incomplete(msgspec.Struct, frozen=True):
    """Why an answer was cut off."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseFault(msgspec.Struct, frozen=True):
    """Why there is no answer, or only its beginning."""

    code: FaultCode
    message: str


class ResponseReply(msgspec.Struct, frozen=True, kw_only=True):
    """A response: what was asked for, and what came of it. `tools` and the like: as the request had them."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: ResponseFault | None = None
    incomplete_details: Incomplete | None = None
    background: bool = False
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    service_tier: Literal["default"] = "default"
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


class DeletedResponse(msgspec.Struct, frozen=True):
    """A response is not stored any more."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputTokens(msgspec.Struct, frozen=True):
    """/v1/responses/input_tokens."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class ResponseItems(msgspec.Struct, frozen=True):
    """A page of a response's input."""

    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"
