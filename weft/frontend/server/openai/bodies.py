"""Bodies: how OpenAI's two text endpoints write an answer: one body, or chunks and [DONE]."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.engine.core.choice import Choice, ChoiceDelta
from weft.engine.core.outputs import RequestOutput
from weft.frontend.server.errors import error_frame, error_response
from weft.frontend.server.openai.base import Format
from weft.frontend.server.openai.joined import joined, likeliest
from weft.frontend.server.openai.records import (
    AnswerDetails,
    Body,
    ChatChunkChoice,
    CompletionChoice,
    PromptDetails,
    Usage,
)
from weft.frontend.server.openai.requests import Common
from weft.frontend.server.replies import Answer

_encoder = msgspec.json.Encoder()


class Bodies:
    """The `ReplyForm` of a chat or a completion. `fingerprint`: of the layout that computes it."""

    def __init__(self, form: Format, asked: Common, fingerprint: str | None, *, always_usage: bool) -> None:
        options = asked.stream_options
        self._form, self._fingerprint, self._kept = form, fingerprint, asked.n
        self._include_usage = always_usage or (options is not None and options.include_usage)
        self._continuous = always_usage or (options is not None and options.continuous_usage_stats)

    def whole(self, answer: Answer) -> bytes:
        """Of each prompt the likeliest choices, where more are made than are to come back."""
        made = likeliest([joined(pieces) for pieces in answer.pieces], answer.stream.n, self._kept)
        choices = [self._form.choice(index, piece) for index, piece in enumerate(made)]
        ids, logprobs = self._form.prompt([pieces[0] for pieces in answer.pieces])
        head = (answer.id, self._form.whole, answer.created, answer.model)
        usage = usage_of(answer.choices, answer.stream.n, self._form.thoughts(answer.pieces))
        return _encoder.encode(Body(*head, choices, self._fingerprint, usage, ids, logprobs))

    def opening(self, answer: Answer, arrived: Sequence[tuple[int, RequestOutput]]) -> bytes:
        """What opens each choice, if anything."""
        first = [self._form.first(index) for index in range(len(answer.choices))]
        shown = [choice for choice in first if choice is not None]
        ids = self._form.opening_ids
        return b"".join(self._frame(answer, choice, None if at else ids) for at, choice in enumerate(shown))

    def frames(self, answer: Answer, index: int, piece: ChoiceDelta) -> bytes:
        """Nothing for a piece without anything for the client."""
        has_content = piece.text or piece.logprobs or piece.prompt_logprobs or piece.finish_reason is not None
        if not has_content and not (piece.token_ids and self._form.shows_ids):
            self._form.unseen(index, piece)
            return b""
        return b"".join([self._frame(answer, choice) for choice in self._form.chunks(index, piece)])

    def ending(self, answer: Answer) -> bytes:
        """The usage, where it is asked for, and [DONE]."""
        usage = self._event(answer, [], self._usage(answer)) if self._include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def refusal(self, error: RequestError) -> Response:
        """OpenAI's error object."""
        return error_response(error)

    def broken(self, answer: Answer, error: RequestError) -> bytes:
        """The same inside a stream."""
        return error_frame(error)

    def _frame(
        self, answer: Answer, choice: ChatChunkChoice | CompletionChoice, prompt_ids: list[int] | None = None
    ) -> bytes:
        usage: Usage | None | UnsetType = UNSET
        if self._include_usage:
            usage = self._usage(answer) if self._continuous else None
        return self._event(answer, [choice], usage, prompt_ids)

    def _event(
        self,
        answer: Answer,
        choices: list[ChatChunkChoice | CompletionChoice],
        usage: Usage | None | UnsetType,
        prompt_ids: list[int] | None = None,
    ) -> bytes:
        head = (answer.id, self._form.part, answer.created, answer.model)
        ids = UNSET if prompt_ids is None else prompt_ids
        body = Body(*head, choices, self._fingerprint, usage, ids)
        return b"data: " + _encoder.encode(body) + b"\n\n"

    def _usage(self, answer: Answer) -> Usage:
        """Of all choices so far."""
        return usage_of(answer.choices, answer.stream.n, self._form.thoughts())


def usage_of(choices: Sequence[Choice], n: int, thoughts: int | None) -> Usage:
    """A prompt counts once, however many outputs it has. `thoughts`: tokens of reasoning; None: not a chat."""
    prompt = sum(choice.prompt_tokens for choice in choices[::n])
    completion = sum(choice.completion_tokens for choice in choices)
    cached = sum(choice.cached_tokens for choice in choices[::n])
    details = UNSET if thoughts is None else AnswerDetails(thoughts)
    return Usage(prompt, completion, prompt + completion, PromptDetails(cached), details)
