"""Checks new requests against the engine's limits and makes their `Request` records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

from weft.base.errors import RequestError
from weft.base.step.sampling_params import SamplingParams, check, with_logprobs
from weft.engine.core.kv_cache.block_hashes import extend_digests
from weft.engine.core.limits import Limits
from weft.engine.core.request import Request
from weft.engine.core.seeds import output_seed

NO_VOCABULARY = 2**31
"""One above the largest id that a block's hash and the ranks' tables can hold."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Checks requests and builds their outputs. `vocab_size` None: any id of at most 31 bits is accepted."""

    limits: Limits
    eos_token_ids: frozenset[int]
    vocab_size: int | None
    engine_seed: int

    def build(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        admission: int,
        arrival: int,
    ) -> list[Request]:
        """The `n` outputs of the engine's `admission`-th request, with `arrival`, `arrival` + 1 ... as order.

        RequestError: params out of range, an empty prompt, ids outside the vocabulary, or more tokens than the context
        or the cache holds.
        """
        prompt = [_token(token) for token in prompt_ids]
        vocab_size = NO_VOCABULARY if self.vocab_size is None else self.vocab_size
        check(params, vocab_size)
        params = with_logprobs(params, self.limits.max_logprobs)
        self._check_prompt(prompt, vocab_size)
        max_len = self._max_len(len(prompt), params)
        digests: list[bytes] = []
        if self.limits.enable_prefix_caching:
            size = self.limits.block_size
            extend_digests(digests, prompt, len(prompt) // size, size, params.cache_salt)
        return [
            Request(
                request_id=request_id,
                index=number,
                arrival=arrival + number,
                token_ids=list(prompt),
                num_prompt=len(prompt),
                max_len=max_len,
                params=params,
                seed=output_seed(params.seed, self.engine_seed, admission, number),
                eos_ids=frozenset() if params.ignore_eos else self.eos_token_ids,
                stop_ids=frozenset(params.stop_token_ids),
                digests=list(digests),
            )
            for number in range(params.n)
        ]

    def _check_prompt(self, prompt: list[int], vocab_size: int) -> None:
        if not prompt:
            raise RequestError("the prompt has no tokens; at least 1 is needed", param="prompt")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            wrong = next(token for token in prompt if not 0 <= token < vocab_size)
            raise RequestError(f"the prompt holds token id {wrong}; legal: 0 to {vocab_size - 1}", param="prompt")

    def _max_len(self, num_prompt: int, params: SamplingParams) -> int:
        """Length at which an output ends. Its last token is never computed and needs no place in the cache."""
        limits = self.limits
        if num_prompt + 1 > limits.max_model_len:
            raise RequestError(
                f"the prompt has {num_prompt} tokens; max_model_len is {limits.max_model_len}, "
                f"so at most {limits.max_model_len - 1} leave room for an answer"
                + (f"; {limits.shortage}" if limits.shortage else ""),
                param="prompt",
            )
        if num_prompt > limits.capacity:
            raise RequestError(f"the prompt has {num_prompt} tokens; {limits.shortage}", param="prompt")
        if params.max_tokens is None:
            return min(limits.max_model_len, limits.capacity + 1)
        max_len = min(limits.max_model_len, num_prompt + params.max_tokens)
        if max_len - 1 > limits.capacity:
            raise RequestError(
                f"a prompt of {num_prompt} tokens and an answer of {max_len - num_prompt} need {max_len - 1} places "
                f"in the KV cache, which holds {limits.capacity}; "
                f"max_tokens can be {limits.capacity + 1 - num_prompt} at most",
                param="max_tokens",
            )
        return max_len


def _token(token: SupportsIndex) -> int:
    """`token` as an int, from any integer type; RequestError for anything else."""
    try:
        if not isinstance(token, bool):
            return index(token)
    except (TypeError, ValueError, RuntimeError):  # torch raises these for tensors that are not one integer
        pass
    raise RequestError(f"the prompt holds {token!r}; legal: token ids, which are whole numbers", param="prompt")
