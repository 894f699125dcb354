"""A request's fields as the engine's sampling parameters; refuses what is out of range by name."""

from __future__ import annotations

from typing import NoReturn

from weft.base.errors import RequestError
from weft.base.plural import counted
from weft.base.step.sampling_params import MAX_INTEGER, MAX_N, SamplingParams, check, with_logprobs
from weft.frontend.server.openai.base import Shown
from weft.frontend.server.openai.requests import MAX_BIASED, MAX_TIMEOUT_S, ChatRequest, Common, CompletionRequest


def sampling_params(
    request: Common,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
    num_prompts: int,
    vocab: int,
    most: int,
) -> SamplingParams:
    """The engine's words for the request; RequestError names a field out of its range. `most`: alternatives of a token
    that a request may ask for."""
    outputs = outputs_of(request)
    _check_common(request, outputs, num_prompts)
    params = SamplingParams(
        n=outputs,
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
        allowed_token_ids=None if request.allowed_token_ids is None else tuple(request.allowed_token_ids),
        bad_words=tuple(request.bad_words),
        priority=request.priority,
        cache_salt=request.cache_salt,
        logprobs=(logprobs or 0) if outputs > request.n else logprobs,
        logprob_token_ids=tuple(request.logprob_token_ids),
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=request.skip_special_tokens,
        include_stop_str_in_output=request.include_stop_str_in_output,
    )
    check(params, vocab)
    return with_logprobs(params, most)


def outputs_of(request: Common) -> int:
    """How many answers are made for each prompt. RequestError: `best_of` below `n`, or a stream of the best, which are
    known only when all have ended."""
    best_of = request.best_of if isinstance(request, CompletionRequest) else None
    if best_of is None:
        return request.n
    if request.n < 1:
        _refuse("n", request.n, "1 or more")
    if best_of < request.n:
        _refuse("best_of", best_of, f"at least 'n', {request.n}")
    if best_of > request.n and request.stream:
        _refuse("best_of", f"{best_of} with 'stream': true", "without a stream")
    return best_of


def _check_common(request: Common, outputs: int, num_prompts: int) -> None:
    if request.stream_options is not None and not request.stream:
        raise RequestError("'stream_options' needs 'stream': true", param="stream_options", code="invalid_value")
    if request.prompt_logprobs is not None and request.stream:
        _refuse("prompt_logprobs", f"{request.prompt_logprobs} with 'stream': true", "without a stream")
    if num_prompts > MAX_N:
        _refuse("prompt", f"{num_prompts} prompts", f"at most {MAX_N}")
    if max(1, outputs) * num_prompts > MAX_N:
        given = f"{outputs} for {counted(num_prompts, 'prompt')}"
        _refuse("n" if outputs == request.n else "best_of", given, f"{MAX_N} outputs in all")
    if request.timeout is not None and not 0 < request.timeout <= MAX_TIMEOUT_S:
        _refuse("timeout", request.timeout, f"above 0, to {MAX_TIMEOUT_S:g} seconds")
    cut = request.truncate_prompt_tokens
    if cut is not None and (cut < -1 or cut == 0):
        _refuse("truncate_prompt_tokens", cut, "1 or more, or -1")


def _refuse(name: str, value: object, legal: str) -> NoReturn:
    raise RequestError(f"'{name}' is {value}; legal: {legal}", param=name, code="invalid_value")


def _logit_bias(bias: dict[str, float], vocab: int) -> tuple[tuple[int, float], ...]:
    if len(bias) > MAX_BIASED:
        _refuse("logit_bias", f"{len(bias)} entries", f"at most {MAX_BIASED}")
    for word in bias:
        if not (word.isascii() and word.isdigit() and len(word) < 12):
            _refuse("logit_bias", f"for {word[:20]!r}", f"token ids from 0 to {vocab - 1}")
    return tuple((int(word), value) for word, value in bias.items())


def chat_params(request: ChatRequest, vocab: int, most: int) -> tuple[SamplingParams, Shown]:
    """Of a chat. `most` as of `sampling_params`."""
    if request.thinking_token_budget is not None and not 0 <= request.thinking_token_budget <= MAX_INTEGER:
        _refuse("thinking_token_budget", str(request.thinking_token_budget)[:20], f"from 0 to {MAX_INTEGER}")
    logprobs = _logprobs_of_chat(request, most)
    params = sampling_params(
        request,
        max_tokens=max_tokens_of_chat(request),
        logprobs=logprobs,
        prompt_logprobs=request.prompt_logprobs,
        num_prompts=1,
        vocab=vocab,
        most=most,
    )
    return params, _shown(request, logprobs, most)


def _shown(request: Common, logprobs: int | None, most: int) -> Shown:
    named = request.logprob_token_ids
    return Shown(
        logprobs=logprobs if logprobs is None else len(named) or (most if logprobs == -1 else logprobs),
        prompt_logprobs=most if request.prompt_logprobs == -1 else request.prompt_logprobs,
        named=bool(named),
        token_ids=request.return_token_ids,
        tokens_as_ids=request.return_tokens_as_token_ids,
    )


def completion_params(
    request: CompletionRequest, num_prompts: int, vocab: int, most: int
) -> tuple[SamplingParams, Shown]:
    """Of a completion; `most` as of `sampling_params`. Repeating a prompt with log-probabilities asks for those of the
    prompt."""
    counts = (request.prompt_logprobs, request.logprobs if request.echo else None)
    asked = [most if count == -1 else count for count in counts if count is not None]
    params = sampling_params(
        request,
        max_tokens=max(1, max_tokens_of_completion(request)) if is_mute(request) else max_tokens_of_completion(request),
        logprobs=request.logprobs,
        prompt_logprobs=max(asked) if asked else None,
        num_prompts=num_prompts,
        vocab=vocab,
        most=most,
    )
    return params, _shown(request, request.logprobs, most)


def is_mute(request: CompletionRequest) -> bool:
    """Whether only the prompt comes back."""
    return request.echo and request.max_tokens == 0


def _logprobs_of_chat(request: ChatRequest, most: int) -> int | None:
    """Alternatives to report for each token; None: nothing."""
    if request.top_logprobs and not request.logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs': true", param="top_logprobs", code="invalid_value")
    if request.top_logprobs is not None and not -1 <= request.top_logprobs <= most:
        _refuse("top_logprobs", request.top_logprobs, f"-1 (as many as max_logprobs allows) to {most}")
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
        _refuse("max_completion_tokens", request.max_completion_tokens, "1 or more")
    return request.max_completion_tokens


def max_tokens_of_completion(request: CompletionRequest) -> int:
    """16 where nothing is said, as in OpenAI's API."""
    return 16 if request.max_tokens is None else request.max_tokens
