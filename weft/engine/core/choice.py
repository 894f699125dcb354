"""One output as text, log-probabilities and a finish reason, made from the engine's records.

Server and Python API share it; it is the only file of this package that handles text.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from weft.base.errors import RequestError
from weft.base.step.plan import GRAMMAR_FAILED
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.outputs import FinishReason, RequestOutput, TokenLogprob
from weft.engine.text import IncrementalDetokenizer, Tokenizer


class ChoiceDelta(msgspec.Struct):
    """What some records add to a choice. `finish_reason` is set only in the last one."""

    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: list[TokenLogprob] = []
    """Of every prompt token but the first; all at once, before or with the first text."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """The stop string or the token id that ended it."""

    @property
    def is_cut(self) -> bool:
        """Whether the choice ended where its model did not end it."""
        return self.finish_reason == "length" or self.stop_reason is not None


class Choice:
    """Text never contains half a character, nor a stop string or what follows it. `stopped_by`: the one found."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        mute: bool = False,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        """`mute`: generated tokens are neither decoded nor counted; only the prompt matters. `kept`: special tokens
        that are part of the text."""
        self._arguments = (tokenizer, prompt_ids, params)
        self._params, self._mute, self._kept = params, mute, kept
        self._text = IncrementalDetokenizer(
            tokenizer,
            prompt_ids=prompt_ids,
            stop=params.stop,
            include_stop=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
            skip_special_tokens=params.skip_special_tokens,
            kept=kept,
        )
        self.prompt_tokens, self.completion_tokens, self.cached_tokens = len(prompt_ids), 0, 0
        self.finish_reason: str | None = None

    def anew(self) -> Choice:
        """A new choice with the same arguments."""
        return Choice(*self._arguments, mute=self._mute, kept=self._kept)

    @property
    def stopped_by(self) -> str | None:
        """The stop string that was found."""
        return self._text.stopped_by

    def add(self, records: Sequence[RequestOutput]) -> ChoiceDelta | None:
        """What the records add; None once the choice has ended. RequestError 500: no token could be sampled; 400: its
        grammar failed."""
        if self.finish_reason is not None:
            return None
        piece = ChoiceDelta()
        for record in records:
            self._add(record, piece)
            if piece.finish_reason is not None:
                break
        self.finish_reason = piece.finish_reason
        return piece

    def _add(self, record: RequestOutput, piece: ChoiceDelta) -> None:
        if record.error is not None:
            if record.error == GRAMMAR_FAILED:
                raise RequestError(record.error, code="grammar_failed")
            raise RequestError(record.error, status=500, code="no_token")
        self.prompt_tokens, self.cached_tokens = record.prompt_tokens, record.cached_tokens
        piece.prompt_logprobs += record.prompt_logprobs
        if self._mute:
            piece.finish_reason = None if record.finish_reason is None else "length"
            return
        piece.token_ids += record.new_token_ids
        self.completion_tokens += len(record.new_token_ids)
        piece.logprobs += record.logprobs
        if record.finish_reason is None:
            piece.text += self._text.push(record.new_token_ids)
        else:
            piece.text += self._text.push(self._shown(record))
            piece.text += self._text.finish()
            piece.finish_reason = "length" if record.finish_reason is FinishReason.LENGTH else "stop"
            piece.stop_reason = record.stop_reason
        if self._text.stopped_by is not None:
            piece.finish_reason, piece.stop_reason = "stop", self._text.stopped_by

    def _shown(self, record: RequestOutput) -> list[int]:
        """The ids that become text: not the id that ended the output."""
        ended = record.finish_reason is FinishReason.STOP and record.new_token_ids
        wanted = self._params.include_stop_str_in_output and isinstance(record.stop_reason, int)
        return record.new_token_ids[:-1] if ended and not wanted else record.new_token_ids
