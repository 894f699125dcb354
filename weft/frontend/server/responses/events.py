"""Events of the Responses API as records. `sequence_number`: from 0, without gaps."""

from __future__ import annotations

import msgspec

from weft.frontend.server.responses.records import OutputItem, OutputText, ReasoningText, ResponseReply


class EventLogprobTop(msgspec.Struct, frozen=True):
    """An alternative."""

    token: str
    logprob: float


class EventLogprob(msgspec.Struct, frozen=True):
    """A token of a text."""

    token: str
    logprob: float
    top_logprobs: list[EventLogprobTop]


class _Numbered(msgspec.Struct, frozen=True, kw_only=True):
    sequence_number: int


class _OfResponse(_Numbered, frozen=True, kw_only=True):
    response: ResponseReply


class ResponseCreated(_OfResponse, frozen=True, tag="response.created"):
    """First event."""


class ResponseInProgress(_OfResponse, frozen=True, tag="response.in_progress"):
    """Second event."""


class ResponseCompleted(_OfResponse, frozen=True, tag="response.completed"):
    """Last event of an answer that its model ended."""


class ResponseIncomplete(_OfResponse, frozen=True, tag="response.incomplete"):
    """Last event of an answer that was cut off."""


class ResponseFailed(_OfResponse, frozen=True, tag="response.failed"):
    """Last event of an answer that broke."""


class _OfItem(_Numbered, frozen=True, kw_only=True):
    output_index: int


class OutputItemAdded(_OfItem, frozen=True, kw_only=True, tag="response.output_item.added"):
    """An item begins, without content."""

    item: OutputItem


class OutputItemDone(_OfItem, frozen=True, kw_only=True, tag="response.output_item.done"):
    """An item is whole."""

    item: OutputItem


class _OfText(_OfItem, frozen=True, kw_only=True):
    item_id: str


class _OfPart(_OfText, frozen=True, kw_only=True):
    content_index: int = 0


class ContentPartAdded(_OfPart, frozen=True, kw_only=True, tag="response.content_part.added"):
    """A part of an item begins."""

    part: OutputText | ReasoningText


class ContentPartDone(_OfPart, frozen=True, kw_only=True, tag="response.content_part.done"):
    """A part of an item is whole."""

    part: OutputText | ReasoningText


class OutputTextDelta(_OfPart, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """More of a text."""

    delta: str
    logprobs: list[EventLogprob]


class OutputTextDone(_OfPart, frozen=True, kw_only=True, tag="response.output_text.done"):
    """A text is whole."""

    text: str
    logprobs: list[EventLogprob]


class ReasoningTextDelta(_OfPart, frozen=True, kw_only=True, tag="response.reasoning_text.delta"):
    """More of a thought."""

    delta: str


class ReasoningTextDone(_OfPart, frozen=True, kw_only=True, tag="response.reasoning_text.done"):
    """A thought is whole."""

    text: str


class CallArgumentsDelta(_OfText, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    """More of a call's arguments."""

    delta: str


class CallArgumentsDone(_OfText, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    """A call's arguments are whole."""

    arguments: str


class CustomInputDelta(_OfText, frozen=True, kw_only=True, tag="response.custom_tool_call_input.delta"):
    """More of the text of a custom tool's call."""

    delta: str


class CustomInputDone(_OfText, frozen=True, kw_only=True, tag="response.custom_tool_call_input.done"):
    """The text of a custom tool's call is whole."""

    input: str


RESPONSE_EVENTS = (
    ResponseCreated,
    ResponseInProgress,
    OutputItemAdded,
    ContentPartAdded,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    ContentPartDone,
    CallArgumentsDelta,
    CallArgumentsDone,
    CustomInputDelta,
    CustomInputDone,
    OutputItemDone,
    ResponseCompleted,
    ResponseIncomplete,
    ResponseFailed,
)
"""About in the order in which they come."""
