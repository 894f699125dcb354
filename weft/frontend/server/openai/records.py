"""Response bodies as OpenAI's clients read them. Plain records."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType


class PromptDetails(msgspec.Struct, frozen=True):
    """Prompt tokens that came from the prefix cache."""

    cached_tokens: int = 0


class AnswerDetails(msgspec.Struct, frozen=True):
    """Tokens of the answer that are reasoning."""

    reasoning_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the whole request. `completion_tokens_details`: of a chat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: AnswerDetails | UnsetType = UNSET


class PromptLogprob(msgspec.Struct, frozen=True):
    """vLLM's record of a token at one position of the prompt."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""By token id; nothing is known of the first position."""


class TopLogprob(msgspec.Struct, frozen=True):
    """An alternative, or the token itself. `bytes`: of its text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct, frozen=True):
    """One token of a chat answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Of a choice or of a chunk."""

    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Of a choice or of a chunk; lists of one length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(msgspec.Struct, frozen=True):
    """A tool's name and the JSON text of its arguments."""

    name: str
    arguments: str


class CustomCall(msgspec.Struct, frozen=True):
    """A custom tool's name and the text that it is called with."""

    name: str
    input: str


class CalledTool(msgspec.Struct, frozen=True):
    """One call of a message: of a function, or of a custom tool."""

    id: str
    function: FunctionCall | UnsetType = UNSET
    type: str = "function"
    custom: CustomCall | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True):
    """The name comes whole, before the arguments."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class CalledToolDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to the call of this index; id and type come with the name."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET
    custom: CustomCall | UnsetType = UNSET
    """Whole, in one chunk."""


class Message(msgspec.Struct, frozen=True):
    """The assistant's message. `content`: None where there are only calls or reasoning. `reasoning`: the same as
    `reasoning_content`; clients differ in which of the two they read."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CalledTool] | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CalledToolDelta] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """A whole answer."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """A piece of an answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class CompletionChoice(msgspec.Struct, frozen=True):
    """A whole answer or a piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class Body(msgspec.Struct, frozen=True):
    """Every answer's outside, whole or a chunk. `system_fingerprint`: of the layout that computed it. Of a chat's
    chunks only the first has a field of the prompt: `prompt_token_ids`, where they are asked for."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[ChatChoice | ChatChunkChoice | CompletionChoice]
    system_fingerprint: str | None = None
    usage: Usage | None | UnsetType = UNSET
    prompt_token_ids: list[int] | None | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | None | UnsetType = UNSET


class ChatCompletion(Body, frozen=True):
    """A whole chat answer."""

    choices: list[ChatChoice]


class Completion(Body, frozen=True):
    """A whole text answer."""

    choices: list[CompletionChoice]


class Health(msgspec.Struct, frozen=True):
    """/health."""

    status: str = "ok"


class Model(msgspec.Struct, frozen=True):
    """One entry of /v1/models. `root`: what the weights and the tokenizer were read from, as it was named at the start:
    load generators take the tokenizer from there."""

    id: str
    created: int
    max_model_len: int | None
    root: str
    parent: None = None
    object: str = "model"
    owned_by: str = "weft"


class Load(msgspec.Struct, frozen=True):
    """/load: requests that are queued or running."""

    server_load: int


class ModelList(msgspec.Struct, frozen=True):
    """/v1/models."""

    data: list[Model]
    object: str = "list"


class Tokens(msgspec.Struct, frozen=True):
    """/tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(msgspec.Struct, frozen=True):
    """/detokenize."""

    prompt: str


class Version(msgspec.Struct, frozen=True):
    """/version."""

    version: str
