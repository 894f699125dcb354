"""Bodies of /v1/messages and of its count_tokens as records: types here, ranges where they become a chat's."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from weft.base.errors import RequestError
from weft.base.step.sampling_params import MAX_INTEGER, MAX_STOPS
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.fields.table import FieldTable, leave_out
from weft.frontend.server.openai.parsing import converted, json_object, need
from weft.frontend.server.openai.requests import MAX_TOOLS, bounded

FIELDS = FieldTable("messages")

CLEAR_THINKING = "clear_thinking_20251015"
Asked = TypeVar("Asked", bound="CountTokensRequest")
Tools = Annotated[list[dict[str, Any]], bounded(maxItems=MAX_TOOLS)]
Blocks = list[dict[str, Any]]


class ThinkingChoice(msgspec.Struct, frozen=True, kw_only=True):
    """`thinking`. `adaptive`: as the model's chat template has it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, bounded(minimum=1, maximum=MAX_INTEGER)] | None = None
    """Tokens of reasoning, at most."""
    display: Literal["summarized", "omitted"] | None = None
    """`omitted`: thoughts are left out of the answer. Otherwise they come whole."""


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """`tool_choice`. `any`: one tool or more; `tool`: the one named."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class JsonFormat(msgspec.Struct, frozen=True, kw_only=True):
    """`output_config.format`: the answer keeps to a JSON schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`output_config`."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ThinkingEdit(msgspec.Struct, frozen=True, kw_only=True):
    """An edit of `context_management`. `keep`: of which of the last turns the thoughts stay in the prompt."""

    type: str
    keep: Literal["all"] | dict[str, Any] | None = None


class ContextManagement(msgspec.Struct, frozen=True, kw_only=True):
    """`context_management`: only thoughts are cleared; other edits are left out."""

    edits: list[ThinkingEdit] = []


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """/v1/messages/count_tokens: what a prompt is made of."""

    messages: list[dict[str, Any]]
    model: str | None = None
    system: str | Blocks | None = None
    thinking: ThinkingChoice | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    """An older name of `output_config.format`."""
    context_management: ContextManagement | None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """/v1/messages."""

    max_tokens: Annotated[int, bounded(minimum=0, maximum=MAX_INTEGER)]
    """The answer has fewer where the context has no more room. 0: the prompt is computed, and nothing else."""
    stream: bool = False
    temperature: Annotated[float, bounded(minimum=0)] | None = None
    top_p: Annotated[float, bounded(exclusiveMinimum=0, maximum=1)] | None = None
    top_k: Annotated[int, bounded(minimum=-1, maximum=MAX_INTEGER)] | None = None
    stop_sequences: Annotated[list[str], bounded(maxItems=MAX_STOPS)] = []


def messages_request(body: bytes, notes: Notes) -> MessagesRequest:
    """RequestError names the field that is wrong."""
    fields = FIELDS.known(json_object(body), MessagesRequest, notes)
    need(fields, "messages")
    need(fields, "max_tokens")
    asked = _with_edits(converted(fields, MessagesRequest), notes)
    if not 0 <= asked.max_tokens <= MAX_INTEGER:
        shown = str(asked.max_tokens)[:20]
        message = f"'max_tokens' is {shown}; legal: from 0 to {MAX_INTEGER}"
        raise RequestError(message, param="max_tokens", code="invalid_value")
    return asked


def count_tokens_request(body: bytes, notes: Notes) -> CountTokensRequest:
    """RequestError names the field that is wrong."""
    fields = FIELDS.known(json_object(body), CountTokensRequest, notes)
    need(fields, "messages")
    return _with_edits(converted(fields, CountTokensRequest), notes)


def _with_edits(asked: Asked, notes: Notes) -> Asked:
    """With those edits of `context_management` that this server makes."""
    given = asked.context_management.edits if asked.context_management else []
    for index, edit in enumerate(given):
        if edit.type != CLEAR_THINKING:
            leave_out(edit.type, [CLEAR_THINKING], notes, f"context_management.edits[{index}].")
    kept = [edit for edit in given if edit.type == CLEAR_THINKING]
    return msgspec.structs.replace(asked, context_management=ContextManagement(edits=kept))
