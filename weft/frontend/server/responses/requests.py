"""Bodies of /v1/responses as records: types and what is an enumeration here, ranges where they become a chat's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from weft.base.step.sampling_params import MAX_INTEGER, MAX_PRIORITY, MAX_SALT, MAX_STOPS
from weft.frontend.server.errors import refuse
from weft.frontend.server.openai.fields import FieldTables
from weft.frontend.server.openai.parsing import converted, json_object, need
from weft.frontend.server.openai.requests import MAX_TOOLS, Effort, Logprobs, Penalty, Scalar, StopText, bounded

FIELDS = FieldTables("weft.frontend.server.responses")
MOST_LABELS, LONGEST_LABEL, LONGEST_VALUE = 16, 64, 512
"""Of `metadata`: entries, characters of a name, characters of a value."""

Item = dict[str, Any]
Items = list[Item]
Included = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]
"""The second changes nothing: reasoning comes in the clear."""


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`text`. Only medium verbosity is served: a model has no switch for it."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`reasoning`. Thoughts come whole, so that no summary is made of them."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "all_turns"] | None = None
    mode: Literal["standard"] | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`stream_options`."""

    include_obfuscation: Literal[False] | None = None


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
    include: list[Included] = []
    temperature: Annotated[float, bounded(minimum=0)] | None = None
    top_p: Annotated[float, bounded(exclusiveMinimum=0, maximum=1)] | None = None
    top_logprobs: Logprobs | None = None
    truncation: Literal["disabled"] = "disabled"
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


def responses_request(body: bytes) -> ResponsesRequest:
    """RequestError names the field that is wrong."""
    fields = FIELDS.known(json_object(body), frozenset(ResponsesRequest.__struct_fields__))
    need(fields, "input")
    asked = converted(fields, ResponsesRequest)
    if asked.stream_options is not None and not asked.stream:
        refuse("stream_options", "it needs 'stream': true")
    if len(asked.metadata) > MOST_LABELS:
        refuse("metadata", f"it has {len(asked.metadata)} entries; legal: at most {MOST_LABELS}")
    for name, value in asked.metadata.items():
        if len(name) > LONGEST_LABEL or len(value) > LONGEST_VALUE:
            legal = f"names of {LONGEST_LABEL} characters and values of {LONGEST_VALUE}"
            refuse("metadata", f"'{name[:LONGEST_LABEL]}' is too long; legal: {legal}")
    return asked
