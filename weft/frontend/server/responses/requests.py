"""Bodies of /v1/responses as records: types and what is an enumeration here, ranges where they become a chat's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from weft.base.step.sampling_params import MAX_INTEGER, MAX_PRIORITY, MAX_SALT, MAX_STOPS
from weft.frontend.server.errors import refuse
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.fields.table import FieldTable, leave_out
from weft.frontend.server.openai.parsing import converted, json_object, need
from weft.frontend.server.openai.requests import MAX_TOOLS, Effort, Logprobs, Penalty, Scalar, StopText, bounded

FIELDS = FieldTable("responses")
MOST_LABELS, LONGEST_LABEL, LONGEST_VALUE = 16, 64, 512
"""Of `metadata`: entries, characters of a name, characters of a value."""

Item = dict[str, Any]
Items = list[Item]
INCLUDED = ("message.output_text.logprobs", "reasoning.encrypted_content")
"""The second changes nothing: reasoning comes in the clear."""


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`text`."""

    format: TextFormat | None = None


class ReasoningConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`reasoning`."""

    effort: Effort | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`stream_options`: nothing in it is heeded."""


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """/v1/responses: OpenAI's fields, then vLLM's and SGLang's extensions."""

    input: str | Items
    model: str | None = None
    instructions: str | None = None
    """Not those of an earlier response."""
    previous_response_id: str | None = None
    tools: Annotated[list[dict[str, Any]], bounded(maxItems=MAX_TOOLS)] = []
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = TextConfig()
    reasoning: ReasoningConfig = ReasoningConfig()
    max_output_tokens: Annotated[int, bounded(minimum=1, maximum=MAX_INTEGER)] | None = None
    metadata: Annotated[dict[str, str], bounded(maxProperties=MOST_LABELS)] = {}
    store: bool = True
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    include: list[str] = []
    temperature: Annotated[float, bounded(minimum=0)] | None = None
    top_p: Annotated[float, bounded(exclusiveMinimum=0, maximum=1)] | None = None
    top_logprobs: Logprobs | None = None
    top_k: Annotated[int, bounded(minimum=-1, maximum=MAX_INTEGER)] | None = None
    min_p: Annotated[float, bounded(minimum=0, maximum=1)] | None = None
    seed: Annotated[int, bounded(minimum=-MAX_INTEGER - 1, maximum=MAX_INTEGER)] | None = None
    stop: Annotated[str | list[StopText], bounded(maxItems=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, bounded(exclusiveMinimum=0)] | None = None
    priority: Annotated[int, bounded(minimum=-MAX_PRIORITY, maximum=MAX_PRIORITY)] | None = None
    cache_salt: Annotated[str, bounded(minLength=1, maxLength=MAX_SALT)] | None = None
    chat_template_kwargs: dict[str, Scalar] = {}
    include_reasoning: bool = True


def responses_request(body: bytes, notes: Notes) -> ResponsesRequest:
    """RequestError names the field that is wrong."""
    fields = FIELDS.known(json_object(body), ResponsesRequest, notes)
    need(fields, "input")
    asked = converted(fields, ResponsesRequest)
    for index, name in enumerate(asked.include):
        if name not in INCLUDED:
            leave_out(name, INCLUDED, notes, f"include[{index}].")
    if asked.stream_options is not None and not asked.stream:
        refuse("stream_options", "it needs 'stream': true")
    if len(asked.metadata) > MOST_LABELS:
        refuse("metadata", f"it has {len(asked.metadata)} entries; legal: at most {MOST_LABELS}")
    for name, value in asked.metadata.items():
        if len(name) > LONGEST_LABEL or len(value) > LONGEST_VALUE:
            legal = f"names of {LONGEST_LABEL} characters and values of {LONGEST_VALUE}"
            refuse("metadata", f"'{name[:LONGEST_LABEL]}' is too long; legal: {legal}")
    return asked
