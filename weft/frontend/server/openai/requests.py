"""Request bodies as records, and their checks: types by msgspec, ranges by name.

Every number has a ceiling that is checked before anything is allocated for it. The records are also what
/openapi.json is made of: `bounded` says a range to readers of the document, `check` and its like hold it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from weft.base.step.sampling_params import (
    MAX_BAD_WORDS,
    MAX_BIAS,
    MAX_INTEGER,
    MAX_LOGPROB_IDS,
    MAX_N,
    MAX_PRIORITY,
    MAX_REPETITION,
    MAX_SALT,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MIN_REPETITION,
)
from weft.frontend.server.openai.structured import Guided

MAX_BIASED = 4096
"""Entries of logit_bias."""
MAX_TEMPLATE_ARGUMENTS = 32
MAX_TOOLS = 512
MAX_TIMEOUT_S = 86400.0


def bounded(**schema: Any) -> msgspec.Meta:
    """What the document says of a field beside its type."""
    return msgspec.Meta(extra_json_schema=schema)


Count = Annotated[int, bounded(minimum=0, maximum=MAX_INTEGER)]
Logprobs = Annotated[int, bounded(minimum=-1, maximum=MAX_INTEGER)]
"""-1: as many as --max-logprobs allows."""
Penalty = Annotated[float, bounded(minimum=-2, maximum=2)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Scalar = str | int | float | bool | None
TokenId = Annotated[int, bounded(minimum=0)]
StopText = Annotated[str, bounded(minLength=1, maxLength=MAX_STOP_LENGTH)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`: usage in a last chunk of its own, or with every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Common(Guided, frozen=True, kw_only=True):
    """What both endpoints share; fields as in OpenAI's API and vLLM's extension of it."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, bounded(minimum=1, maximum=MAX_N)] = 1
    max_tokens: Annotated[int, bounded(minimum=0, maximum=MAX_INTEGER)] | None = None
    min_tokens: Count = 0
    temperature: Annotated[float, bounded(minimum=0, maximum=MAX_TEMPERATURE)] = 1.0
    top_p: Annotated[float, bounded(exclusiveMinimum=0, maximum=1)] = 1.0
    top_k: Annotated[int, bounded(minimum=-1, maximum=MAX_INTEGER)] = 0
    min_p: Annotated[float, bounded(minimum=0, maximum=1)] = 0.0
    seed: Annotated[int, bounded(minimum=-MAX_INTEGER - 1, maximum=MAX_INTEGER)] | None = None
    stop: Annotated[str | list[StopText], bounded(maxItems=MAX_STOPS)] = []
    stop_token_ids: Annotated[list[TokenId], bounded(maxItems=MAX_STOPS)] = []
    ignore_eos: bool = False
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, bounded(minimum=MIN_REPETITION, maximum=MAX_REPETITION)] = 1.0
    logit_bias: dict[str, Annotated[float, bounded(minimum=-MAX_BIAS, maximum=MAX_BIAS)]] = {}
    bad_words: Annotated[list[StopText], bounded(maxItems=MAX_BAD_WORDS)] = []
    allowed_token_ids: Annotated[list[TokenId], bounded(minItems=1)] | None = None
    priority: Annotated[int, bounded(minimum=-MAX_PRIORITY, maximum=MAX_PRIORITY)] = 0
    cache_salt: Annotated[str, bounded(minLength=1, maxLength=MAX_SALT)] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprob_token_ids: Annotated[list[TokenId], bounded(maxItems=MAX_LOGPROB_IDS)] = []
    """Log-probabilities of these tokens and the sampled one, instead of those of the likeliest."""
    prompt_logprobs: Logprobs | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    truncate_prompt_tokens: Annotated[int, bounded(minimum=-1)] | None = None
    """The last so many tokens of the prompt; -1: as many as leave room for one token of an answer."""
    timeout: Annotated[float, bounded(exclusiveMinimum=0, maximum=MAX_TIMEOUT_S)] | None = None
    """Seconds that the request may wait in the queue."""


Prompt = str | list[str] | list[int] | list[list[int]]
"""Text or token ids, one or several."""
PROMPT_SCHEMA = bounded(
    anyOf=[
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_N},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
            "maxItems": MAX_N,
        },
    ]
)


class CompletionRequest(Common, frozen=True, kw_only=True):
    """/v1/completions."""

    prompt: Annotated[Any, PROMPT_SCHEMA]
    """A `Prompt`; checked by hand, since msgspec cannot distinguish lists of different things."""
    logprobs: Logprobs | None = None
    echo: bool = False
    best_of: Annotated[int, bounded(minimum=1, maximum=MAX_N)] | None = None
    """So many answers are made, and the `n` likeliest by the mean over their tokens come back."""
    add_special_tokens: bool = True


class ReasoningWords(msgspec.Struct, frozen=True, kw_only=True):
    """`reasoning`, in OpenRouter's words. `max_tokens`: of reasoning, at most."""

    effort: Effort | None = None
    max_tokens: Count | None = None
    enabled: bool | None = None
    exclude: bool = False


class ThinkingWords(msgspec.Struct, frozen=True, kw_only=True):
    """`thinking`, in the words of Anthropic, DeepSeek and GLM. `adaptive`, `auto`: as the chat template has it."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] = "auto"
    budget_tokens: Count | None = None


class ChatRequest(Common, frozen=True, kw_only=True):
    """/v1/chat/completions."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Scalar] = {}
    max_completion_tokens: Annotated[int, bounded(minimum=1, maximum=MAX_INTEGER)] | None = None
    logprobs: bool = False
    top_logprobs: Logprobs | None = None
    tools: Annotated[list[dict[str, Any]], bounded(maxItems=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    """"auto", "required", "none", one tool by name, or some tools."""
    parallel_tool_calls: bool = True
    reasoning_effort: Effort | None = None
    """To the chat template; "none" also turns thinking off."""
    enable_thinking: bool | None = None
    thinking_token_budget: Count | None = None
    """Tokens of reasoning, at most."""
    include_reasoning: bool = True
    reasoning: ReasoningWords = ReasoningWords()
    thinking: ThinkingWords = ThinkingWords()
    thinking_budget: Count | None = None
    """The same as `thinking_token_budget`, as Qwen's servers name it."""


def with_reasoning(asked: ChatRequest) -> ChatRequest:
    """What other servers' words ask of reasoning, in this server's, which come first where both are given."""
    switch = {"enabled": True, "disabled": False}.get(asked.thinking.type)
    budgets = (asked.thinking_budget, asked.reasoning.max_tokens, asked.thinking.budget_tokens)
    words = {
        "reasoning_effort": asked.reasoning.effort,
        "enable_thinking": switch if asked.reasoning.enabled is None else asked.reasoning.enabled,
        "thinking_token_budget": next((budget for budget in budgets if budget is not None), None),
    }
    given = {name: word for name, word in words.items() if word is not None and getattr(asked, name) is None}
    shown = asked.include_reasoning and not asked.reasoning.exclude
    return msgspec.structs.replace(asked, **given, include_reasoning=shown)


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """/tokenize of a text."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """/tokenize of a conversation."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Scalar] = {}
    tools: Annotated[list[dict[str, Any]], bounded(maxItems=MAX_TOOLS)] | None = None
    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    model: str | None = None
    return_token_strs: bool = False


ChatFields = ChatRequest | TokenizeChatRequest
"""What says how a conversation becomes a prompt."""


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """/detokenize."""

    tokens: list[TokenId]
    model: str | None = None
