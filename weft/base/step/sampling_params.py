"""How a request wants to be sampled, with the names of vLLM and OpenAI; `check` holds the legal ranges."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import msgspec

from weft.base.errors import RequestError
from weft.base.step.structured_outputs import StructuredOutputs

LISTS = (
    "stop", "stop_token_ids", "logit_bias", "allowed_token_ids", "bad_words", "bad_token_ids", "logprob_token_ids",
)  # fmt: skip


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """temperature 0 is greedy. `stop` strings are matched by the front end on text; `stop_token_ids` by the engine."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 and -1: off
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None  # no other token is ever sampled
    bad_words: tuple[str, ...] = ()  # texts that are never generated; the front end tokenizes them into bad_token_ids
    bad_token_ids: tuple[
        tuple[int, ...], ...
    ] = ()  # sequences of tokens whose last one is never sampled after the others
    structured_outputs: StructuredOutputs | None = None  # what an answer is to be; the front end makes a grammar of it
    grammar: str | None = None  # which an answer keeps to, in the words of the grammar library: Lark, or its JSON
    priority: int = 0  # lower is admitted first and preempted last; ties by arrival
    logprobs: int | None = None  # number of alternatives beside the sampled token; -1: as many as the engine allows
    logprob_token_ids: tuple[int, ...] = ()  # with logprobs: of these tokens instead of the likeliest
    prompt_logprobs: int | None = None  # the same for the prompt's own tokens
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    cache_salt: str | None = None  # KV blocks are shared only with requests that have the same salt

    def __post_init__(self) -> None:
        """Accepts other forms: one stop string, lists, a dictionary of biases. `check` validates the values."""
        for field in ("stop", "bad_words"):
            if isinstance(getattr(self, field), str):
                msgspec.structs.force_setattr(self, field, (getattr(self, field),))
        if isinstance(self.structured_outputs, dict):
            msgspec.structs.force_setattr(self, "structured_outputs", _outputs_of(self.structured_outputs))
        if isinstance(self.logit_bias, dict):
            msgspec.structs.force_setattr(self, "logit_bias", tuple(self.logit_bias.items()))
        for field in LISTS:
            if isinstance(getattr(self, field), list):
                msgspec.structs.force_setattr(self, field, tuple(getattr(self, field)))


def _outputs_of(fields: dict[str, Any]) -> StructuredOutputs:
    try:
        return msgspec.convert(fields, StructuredOutputs)
    except msgspec.ValidationError as error:
        raise RequestError(f"structured_outputs: {error}", param="structured_outputs", code="invalid_type") from error


MAX_N = 128
MAX_LOGPROB_IDS = 128
MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_BIAS = 100.0
MAX_TEMPERATURE = 1000.0
MIN_REPETITION, MAX_REPETITION = 0.01, 100.0
"""Within these ranges logits stay finite in fp32."""
MAX_BAD_WORDS = 128
MAX_PRIORITY = 2**31 - 1
MAX_SALT = 256
MAX_GRAMMAR = 1 << 20
"""Characters of a serialised grammar."""
MAX_INTEGER = 2**63 - 1
"""No parameter is a larger whole number: it goes to ranks in 64 bits."""


def check(params: SamplingParams, vocab_size: int) -> None:
    """RequestError naming the field, its value and the legal ones, for anything outside OpenAI's and vLLM's ranges."""
    _integer(params, "n", 1, MAX_N)
    _number(params, "temperature", 0.0, MAX_TEMPERATURE)
    _number(params, "top_p", 0.0, 1.0, above=True)
    _integer(params, "top_k", -1)
    _number(params, "min_p", 0.0, 1.0)
    _number(params, "presence_penalty", -2.0, 2.0)
    _number(params, "frequency_penalty", -2.0, 2.0)
    _number(params, "repetition_penalty", MIN_REPETITION, MAX_REPETITION)
    _integer(params, "min_tokens", 0)
    _optional_integer(params, "seed", -(2**63), MAX_INTEGER)
    _optional_integer(params, "max_tokens", 1)
    _optional_integer(params, "logprobs", -1, MAX_INTEGER)
    _optional_integer(params, "prompt_logprobs", -1, MAX_INTEGER)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        _refuse("min_tokens", params.min_tokens, f"at most max_tokens, {params.max_tokens}")
    for field in ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output"):
        if not isinstance(getattr(params, field), bool):
            _refuse(field, getattr(params, field), "true or false")
    _integer(params, "priority", -MAX_PRIORITY, MAX_PRIORITY)
    salt = params.cache_salt
    if salt is not None and not _is_text(salt, MAX_SALT):
        _refuse("cache_salt", repr(salt)[:40], f"a string of 1 to {MAX_SALT} characters")
    for field in LISTS:
        if not isinstance(getattr(params, field), tuple) and (field, getattr(params, field)) != (LISTS[3], None):
            _refuse(field, repr(getattr(params, field)), "a list")
    _check_stops(params, vocab_size)
    _check_bias(params, vocab_size)
    _check_words(params, vocab_size)
    _check_named(params, vocab_size)
    if params.grammar is not None or params.structured_outputs is not None:
        _check_grammar(params)


def with_logprobs(params: SamplingParams, most: int) -> SamplingParams:
    """`params` with as many alternatives as they say, or `most` for -1. RequestError: they ask for more than `most`."""
    changed: dict[str, int] = {}
    for field in ("logprobs", "prompt_logprobs"):
        asked = getattr(params, field)
        if asked is not None and asked > most:
            _refuse(field, asked, f"-1 (as many as max_logprobs allows) to {most}")
        if asked == -1:
            changed[field] = most
    return msgspec.structs.replace(params, **changed) if changed else params


def _check_grammar(params: SamplingParams) -> None:
    if params.structured_outputs is not None and not isinstance(params.structured_outputs, StructuredOutputs):
        _refuse("structured_outputs", repr(params.structured_outputs)[:40], "StructuredOutputs, or its fields")
    if params.grammar is not None and not _is_text(params.grammar, MAX_GRAMMAR):
        _refuse("grammar", repr(params.grammar)[:40], f"a string of 1 to {MAX_GRAMMAR} characters")
    others = {
        "min_tokens": params.min_tokens > 0,
        "ignore_eos": params.ignore_eos,
        "allowed_token_ids": params.allowed_token_ids is not None,
        "bad_words": bool(params.bad_words or params.bad_token_ids),
    }
    found = next((name for name, given in others.items() if given), None)
    if found is not None:
        raise RequestError(
            f"{found} beside a grammar: the grammar alone says which tokens may come and when an answer ends; leave"
            f" {found} out",
            param=found,
            code="invalid_value",
        )


def _check_named(params: SamplingParams, vocab_size: int) -> None:
    named = params.logprob_token_ids
    if named and params.logprobs is None:
        _refuse("logprob_token_ids", "without logprobs", "beside logprobs")
    for token in named:
        _check_token("logprob_token_ids", token, vocab_size)
    if len(named) > MAX_LOGPROB_IDS or len({*named}) < len(named):
        _refuse("logprob_token_ids", f"with {len(named)} entries", f"at most {MAX_LOGPROB_IDS} different ids")


def _check_words(params: SamplingParams, vocab_size: int) -> None:
    if len(params.bad_words) > MAX_BAD_WORDS:
        _refuse("bad_words", f"with {len(params.bad_words)} entries", f"at most {MAX_BAD_WORDS}")
    for text in params.bad_words:
        if not _is_text(text, MAX_STOP_LENGTH) or not text.strip():
            _refuse("bad_words", repr(text)[:40], f"words of 1 to {MAX_STOP_LENGTH} characters")
    for run in params.bad_token_ids:
        if not isinstance(run, tuple | list) or not run:
            _refuse("bad_token_ids", repr(run)[:40], "lists of token ids")
        for token in run:
            _check_token("bad_token_ids", token, vocab_size)
    if params.allowed_token_ids is None:
        return
    for token in params.allowed_token_ids:
        _check_token("allowed_token_ids", token, vocab_size)
    if not {*params.allowed_token_ids} - {run[0] for run in params.bad_token_ids if len(run) == 1}:
        _refuse("allowed_token_ids", "leave no token to choose", "one or more ids that bad_words do not rule out")


def _check_stops(params: SamplingParams, vocab_size: int) -> None:
    for field, stops in (("stop", params.stop), ("stop_token_ids", params.stop_token_ids)):
        if len(stops) > MAX_STOPS:
            _refuse(field, f"with {len(stops)} entries", f"at most {MAX_STOPS}")
    for text in params.stop:
        if not _is_text(text, MAX_STOP_LENGTH):
            shown = f"{text[:20]!r}..." if isinstance(text, str) and len(text) > 20 else repr(text)
            _refuse("stop", shown, f"strings of 1 to {MAX_STOP_LENGTH} characters")
    for token in params.stop_token_ids:
        _check_token("stop_token_ids", token, vocab_size)


def _check_bias(params: SamplingParams, vocab_size: int) -> None:
    wrong = next((pair for pair in params.logit_bias if not isinstance(pair, tuple | list) or len(pair) != 2), None)
    if wrong is not None:
        _refuse("logit_bias", repr(wrong), "pairs of a token id and a number")
    tokens = [token for token, _ in params.logit_bias]
    for token, value in params.logit_bias:
        _check_token("logit_bias", token, vocab_size)
        if not _is_number(value) or not -MAX_BIAS <= value <= MAX_BIAS:
            _refuse("logit_bias", f"of token {token}: {_shown(value)}", f"a number from {-MAX_BIAS:g} to {MAX_BIAS:g}")
    if len(set(tokens)) < len(tokens):
        repeated = next(token for token in tokens if tokens.count(token) > 1)
        _refuse("logit_bias", f"with token {repeated} twice", "each token once")


def _check_token(field: str, token: object, vocab_size: int) -> None:
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
        _refuse(field, f"token {_shown(token)}", f"ids from 0 to {vocab_size - 1}")


def _is_number(value: object) -> bool:
    return _is_integer(value) if not isinstance(value, float) else math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _fits(value)


def _fits(value: int) -> bool:
    return -MAX_INTEGER - 1 <= value <= MAX_INTEGER


def _shown(value: object) -> str:
    return repr(value) if not isinstance(value, int) or _fits(value) else f"of {value.bit_length()} bits"


def _is_text(value: object, longest: int) -> bool:
    """A string of 1 to `longest` characters that UTF-8 can encode; a lone surrogate cannot be."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        return False
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False


def _number(params: SamplingParams, field: str, low: float, high: float = math.inf, above: bool = False) -> None:
    """A finite number in [low, high], or in (low, high] if `above`."""
    value = getattr(params, field)
    if _is_number(value) and low <= value <= high and not (above and value == low):
        return
    bounds = f"above {low:g}" if above else f"{low:g} or more" if high == math.inf else f"from {low:g}"
    _refuse(field, value, f"a number {bounds}" + ("" if high == math.inf else f"{' and' if above else ''} to {high:g}"))


def _integer(params: SamplingParams, field: str, low: int, high: int | None = None) -> None:
    value = getattr(params, field)
    if _is_integer(value) and low <= value and (high is None or value <= high):
        return
    _refuse(field, value, f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}")


def _optional_integer(params: SamplingParams, field: str, low: int, high: int | None = None) -> None:
    if getattr(params, field) is not None:
        _integer(params, field, low, high)


def _refuse(field: str, value: object, legal: str) -> NoReturn:
    shown = value if isinstance(value, str) else _shown(value)
    if isinstance(value, int) and not _fits(value):
        legal = f"{legal}; whole ones from -2^63 to 2^63 - 1"
    raise RequestError(f"{field} {shown}: legal: {legal}", param=field, code="invalid_value")
