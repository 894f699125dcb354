"""Request bodies as records, and their checks: types by msgspec, ranges by name. Knows no tokenizer and no engine.

Every number has a ceiling that is checked before anything is allocated for it.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec

from weft.errors import RequestError
from weft.server.fields import known_fields
from weft.step.sampling_params import SamplingParams

MAX_OUTPUTS = 128
"""Outputs of one request: prompts times n."""
MAX_STOP = 16
MAX_LOGPROBS = 20
MAX_LIST = 4096
"""Entries of logit_bias and stop_token_ids."""


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


class CompletionRequest(Common, frozen=True, kw_only=True):
    """/v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
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


def completion_request(body: bytes) -> CompletionRequest:
    """RequestError names the field that is wrong."""
    if "prompt" not in (fields := known_fields(_object(body), COMPLETION_FIELDS)):
        raise RequestError("'prompt' is missing", param="prompt", code="missing_required_parameter")
    prompt = fields["prompt"]
    if isinstance(prompt, list):
        _check_prompt_list(prompt)
        # A union of lists is more than msgspec decides; the shape was checked above.
        request = _convert({**fields, "prompt": ""}, CompletionRequest)
        return msgspec.structs.replace(request, prompt=prompt)
    return _convert(fields, CompletionRequest)


def chat_request(body: bytes) -> ChatRequest:
    """RequestError names the field that is wrong."""
    fields = known_fields(_object(body), CHAT_FIELDS)
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


def _check_prompt_list(prompt: list[Any]) -> None:
    if not prompt:
        raise RequestError("'prompt' is an empty list", param="prompt", code="invalid_value")
    if all(isinstance(item, str) for item in prompt) or _is_ids(prompt):
        return
    if all(isinstance(item, list) and _is_ids(item) for item in prompt):
        return
    raise RequestError(
        "'prompt' must be a string, a list of strings, a list of token ids or a list of lists of token ids",
        param="prompt",
        code="invalid_type",
    )


def _is_ids(value: list[Any]) -> bool:
    return all(type(item) is int for item in value)


def sampling_params(
    request: Common, *, max_tokens: int | None, logprobs: int | None, num_prompts: int, vocab: int
) -> SamplingParams:
    """The engine's words for the request; RequestError names a field out of its range."""
    _check_ranges(request, num_prompts)
    if max_tokens is not None and request.min_tokens > max_tokens:
        raise _bad("min_tokens", request.min_tokens, f"at most max_tokens, {max_tokens}")
    return SamplingParams(
        n=request.n,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(0, request.top_k),
        min_p=request.min_p,
        seed=request.seed,
        stop=_stop_strings(request.stop),
        stop_token_ids=_token_ids("stop_token_ids", request.stop_token_ids, vocab),
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


def _check_ranges(request: Common, num_prompts: int) -> None:
    _within("n", request.n, 1, MAX_OUTPUTS)
    if request.n * num_prompts > MAX_OUTPUTS:
        most = MAX_OUTPUTS // request.n
        raise _bad("prompt", f"{num_prompts} prompts with n {request.n}", f"at most {most} prompts")
    _within("temperature", request.temperature, 0, 2)
    _within("top_p", request.top_p, 0, 1, above=True)
    _within("top_k", request.top_k, -1, 2**31 - 1)
    _within("min_p", request.min_p, 0, 1)
    _within("presence_penalty", request.presence_penalty, -2, 2)
    _within("frequency_penalty", request.frequency_penalty, -2, 2)
    _within("repetition_penalty", request.repetition_penalty, 0, 2, above=True)
    _within("min_tokens", request.min_tokens, 0, 2**31 - 1)
    if request.seed is not None:
        _within("seed", request.seed, -(2**63), 2**63 - 1)
    if request.stream_options is not None and not request.stream:
        raise RequestError("'stream_options' needs 'stream': true", param="stream_options", code="invalid_value")


def _within(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    if not math.isfinite(value) or value < low or value > high or (above and value == low):
        word = "above" if above else "from"
        raise _bad(name, value, f"{word} {low:g} to {high:g}")


def _bad(name: str, value: object, legal: str) -> RequestError:
    return RequestError(f"'{name}' is {value}; legal: {legal}", param=name, code="invalid_value")


def _stop_strings(stop: str | list[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(strings) > MAX_STOP:
        raise _bad("stop", f"{len(strings)} strings", f"at most {MAX_STOP}")
    if any(not string or len(string) > 1024 for string in strings):
        raise _bad("stop", "an empty or very long string", "strings of 1 to 1024 characters")
    return strings


def _token_ids(name: str, ids: list[int], vocab: int) -> tuple[int, ...]:
    if len(ids) > MAX_LIST:
        raise _bad(name, f"{len(ids)} entries", f"at most {MAX_LIST}")
    for token in ids:
        if not 0 <= token < vocab:
            raise _bad(name, token, f"token ids from 0 to {vocab - 1}")
    return tuple(ids)


def _logit_bias(bias: dict[str, float], vocab: int) -> tuple[tuple[int, float], ...]:
    if len(bias) > MAX_LIST:
        raise _bad("logit_bias", f"{len(bias)} entries", f"at most {MAX_LIST}")
    pairs = []
    for word, value in bias.items():
        if not word.isascii() or not word.isdigit() or int(word[:12]) >= vocab:
            raise _bad("logit_bias", word[:20], f"token ids from 0 to {vocab - 1}")
        _within("logit_bias", value, -100, 100)
        pairs.append((int(word), value))
    return tuple(pairs)


def logprobs_of_chat(request: ChatRequest) -> int | None:
    """Alternatives to report for each token; None: nothing."""
    if request.top_logprobs is None:
        return 0 if request.logprobs else None
    if not request.logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs': true", param="top_logprobs", code="invalid_value")
    _within("top_logprobs", request.top_logprobs, 0, MAX_LOGPROBS)
    return request.top_logprobs


def logprobs_of_completion(request: CompletionRequest) -> int | None:
    """Alternatives to report for each token; None: nothing."""
    if request.logprobs is not None:
        _within("logprobs", request.logprobs, 0, MAX_LOGPROBS)
    return request.logprobs


def max_tokens_of_chat(request: ChatRequest) -> int | None:
    """None: the rest of the context."""
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise RequestError(
            "'max_tokens' and 'max_completion_tokens' say the same; give one of them",
            param="max_completion_tokens",
            code="invalid_value",
        )
    name = "max_completion_tokens" if request.max_completion_tokens is not None else "max_tokens"
    return _positive(name, getattr(request, name))


def max_tokens_of_completion(request: CompletionRequest) -> int:
    """16 where nothing is said, as in OpenAI's API."""
    return _positive("max_tokens", request.max_tokens) or 16


def _positive(name: str, value: int | None) -> int | None:
    if value is not None:
        _within(name, value, 1, 2**31 - 1)
    return value
