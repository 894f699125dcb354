"""Bodies of /v1/messages and of its count_tokens as records: types here, ranges where they become a chat's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from weft.base.errors import RequestError
from weft.base.step.sampling_params import MAX_INTEGER, MAX_STOPS
from weft.frontend.server.openai.fields import FieldTables
from weft.frontend.server.openai.parsing import converted, json_object, need
from weft.frontend.server.openai.requests import MAX_TOOLS, bounded

FIELDS = FieldTables("weft.frontend.server.messages")

Tools = Annotated[list[dict[str, Any]], bounded(maxItems=MAX_TOOLS)]
Blocks = list[dict[str, Any]]


class ThinkingChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`thinking`. `adaptive`: as the model's chat template has it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, bounded(minimum=1, maximum=MAX_INTEGER)] | None = None
    """Tokens of reasoning, at most."""
    display: Literal["summarized", "omitted"] | None = None
    """`omitted`: thoughts are left out of the answer. Otherwise they come whole."""


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tool_choice`. `any`: one tool or more; `tool`: the one named."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class JsonFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`output_config.format`: the answer keeps to a JSON schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`output_config`."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ThinkingEdit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An edit of `context_management`. `keep`: of which of the last turns the thoughts stay in the prompt."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"] | dict[str, Any] | None = None


class ContextManagement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`context_management`: only thoughts are cleared."""

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


def messages_request(body: bytes) -> MessagesRequest:
    """RequestError names the field that is wrong."""
    fields = FIELDS.known(json_object(body), frozenset(MessagesRequest.__struct_fields__))
    need(fields, "messages")
    need(fields, "max_tokens")
    asked = converted(fields, MessagesRequest)
    if not 0 <= asked.max_tokens <= MAX_INTEGER:
        shown = str(asked.max_tokens)[:20]
        message = f"'max_tokens' is {shown}; legal: from 0 to {MAX_INTEGER}"
        raise RequestError(message, param="max_tokens", code="invalid_value")
    return asked


def count_tokens_request(body: bytes) -> CountTokensRequest:
    """RequestError names the field that is wrong."""
    fields = FIELDS.known(json_object(body), frozenset(CountTokensRequest.__struct_fields__))
    need(fields, "messages")
    return converted(fields, CountTokensRequest)
