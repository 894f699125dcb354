"""Request bodies as records, and their checks: types by msgspec, ranges by name. Knows no tokenizer and no engine.

Every number has a ceiling that is checked before anything is allocated for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from weft.errors import RequestError
from weft.server.fields import known_fields
from weft.step.sampling_params import MAX_LOGPROBS, MAX_N, SamplingParams, check

MAX_BIASED = 4096
"""Entries of logit_bias."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream_options`: usage in a last chunk of its own, or with every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints share; fields as in OpenAI's API and vLLM's extension of it."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[str, float] = {}
    include_stop_str_in_output: bool = False


Prompt = str | list[str] | list[int] | list[list[int]]
"""Text or token ids, one or several."""


class CompletionRequest(Common, frozen=True, kw_only=True):
    """/v1/completions."""

    prompt: Any
    """A `Prompt`; checked by hand, since msgspec does not tell lists of different things apart."""
    logprobs: int | None = None


class ChatRequest(Common, frozen=True, kw_only=True):
    """/v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None


Kind = TypeVar("Kind", bound=Common)

COMPLETION_FIELDS = frozenset(CompletionRequest.__struct_fields__)
CHAT_FIELDS = frozenset(ChatRequest.__struct_fields__)

_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


def completion_request(body: bytes, defaults: Mapping[str, Any]) -> CompletionRequest:
    """`defaults` for fields that are not given. RequestError names the field that is wrong."""
    if "prompt" not in (fields := {**defaults, **known_fields(_object(body), COMPLETION_FIELDS)}):
        raise RequestError("'prompt' is missing", param="prompt", code="missing_required_parameter")
    _check_prompt(fields["prompt"])
    return _convert(fields, CompletionRequest)


def chat_request(body: bytes, defaults: Mapping[str, Any]) -> ChatRequest:
    """`defaults` for fields that are not given. RequestError names the field that is wrong."""
    fields = {**defaults, **known_fields(_object(body), CHAT_FIELDS)}
    if "messages" not in fields:
        raise RequestError("'messages' is missing", param="messages", code="missing_required_parameter")
    return _convert(fields, ChatRequest)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object", code="invalid_json")
    return value


def _convert(fields: dict[str, Any], kind: type[Kind]) -> Kind:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _PATH.search(text)
        path = match["path"] if match else None
        message = _PATH.sub("", text)
        raise RequestError(f"'{path}': {message}" if path else message, param=path, code="invalid_type") from error


def _check_prompt(prompt: object) -> None:
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list):
        raise _bad_prompt()
    if not prompt:
        raise RequestError("'prompt' is an empty list", param="prompt", code="invalid_value")
    texts = all(isinstance(item, str) for item in prompt)
    if not texts and not _is_ids(prompt) and not all(isinstance(item, list) and _is_ids(item) for item in prompt):
        raise _bad_prompt()


def _bad_prompt() -> RequestError:
    message = "'prompt' must be a string, a list of strings, a list of token ids or a list of lists of token ids"
    return RequestError(message, param="prompt", code="invalid_type")


def _is_ids(value: list[Any]) -> bool:
    return all(type(item) is int for item in value)


def sampling_params(
    request: Common, *, max_tokens: int | None, logprobs: int | None, num_prompts: int, vocab: int
) -> SamplingParams:
    """The engine's words for the request; RequestError names a field out of its range."""
    if request.stream_options is not None and not request.stream:
        raise RequestError("'stream_options' needs 'stream': true", param="stream_options", code="invalid_value")
    if max(1, request.n) * num_prompts > MAX_N:
        raise _bad("prompt", f"{num_prompts} prompts with n {request.n}", f"{MAX_N} outputs in all")
    params = SamplingParams(
        n=request.n,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        ignore_eos=request.ignore_eos,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=_logit_bias(request.logit_bias, vocab),
        logprobs=logprobs,
        include_stop_str_in_output=request.include_stop_str_in_output,
    )
    check(params, vocab)
    return params


def _bad(name: str, value: object, legal: str) -> RequestError:
    return RequestError(f"'{name}' is {value}; legal: {legal}", param=name, code="invalid_value")


def _logit_bias(bias: dict[str, float], vocab: int) -> tuple[tuple[int, float], ...]:
    if len(bias) > MAX_BIASED:
        raise _bad("logit_bias", f"{len(bias)} entries", f"at most {MAX_BIASED}")
    for word in bias:
        if not (word.isascii() and word.isdigit() and len(word) < 12):
            raise _bad("logit_bias", f"for {word[:20]!r}", f"token ids from 0 to {vocab - 1}")
    return tuple((int(word), value) for word, value in bias.items())


def logprobs_of_chat(request: ChatRequest) -> int | None:
    """Alternatives to report for each token; None: nothing."""
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs': true", param="top_logprobs", code="invalid_value")
    if request.top_logprobs is not None and not 0 <= request.top_logprobs <= MAX_LOGPROBS:
        raise _bad("top_logprobs", request.top_logprobs, f"from 0 to {MAX_LOGPROBS}")
    return (request.top_logprobs or 0) if request.logprobs else None


def max_tokens_of_chat(request: ChatRequest) -> int | None:
    """None: the rest of the context."""
    if request.max_completion_tokens is None:
        return request.max_tokens
    if request.max_tokens is not None:
        raise RequestError(
            "'max_tokens' and 'max_completion_tokens' say the same; give one of them",
            param="max_completion_tokens",
            code="invalid_value",
        )
    if request.max_completion_tokens < 1:
        raise _bad("max_completion_tokens", request.max_completion_tokens, "1 or more")
    return request.max_completion_tokens


def max_tokens_of_completion(request: CompletionRequest) -> int:
    """16 where nothing is said, as in OpenAI's API."""
    return 16 if request.max_tokens is None else request.max_tokens
