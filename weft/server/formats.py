"""What the two endpoints make of a choice's pieces: chunks while it grows, one choice when it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from weft.engine.choice import Piece
from weft.engine.outputs import TokenLogprob
from weft.server.records import (
    ChatChoice,
    ChatChunkChoice,
    ChatLogprob,
    ChatLogprobs,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    Message,
    TopLogprob,
)
from weft.text import Tokenizer


class Format(Protocol):
    """One endpoint's words."""

    prefix: str
    """Of the answer's id."""
    whole: str
    """`object` of a whole answer."""
    part: str
    """`object` of a chunk."""

    def first(self, index: int) -> ChatChunkChoice | None:
        """What opens a choice before its first piece, if anything."""

    def chunk(self, index: int, piece: Piece) -> ChatChunkChoice | CompletionChoice:
        """A piece."""

    def choice(self, index: int, piece: Piece) -> ChatChoice | CompletionChoice:
        """All pieces as one."""


class ChatFormat:
    """/v1/chat/completions."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, logprobs: int | None) -> None:
        self._tokenizer, self._logprobs = tokenizer, logprobs

    def first(self, index: int) -> ChatChunkChoice:
        """The role."""
        return ChatChunkChoice(index, Delta("assistant", ""), None, None)

    def chunk(self, index: int, piece: Piece) -> ChatChunkChoice:
        """Content, or an empty delta at the end."""
        delta = Delta(content=piece.text) if piece.text or piece.finish_reason is None else Delta()
        return ChatChunkChoice(index, delta, self._of(piece.logprobs), piece.finish_reason)

    def choice(self, index: int, piece: Piece) -> ChatChoice:
        """The message."""
        return ChatChoice(index, Message(piece.text), self._of(piece.logprobs), piece.finish_reason or "stop")

    def _of(self, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return None if self._logprobs is None else ChatLogprobs([self._one(entry) for entry in logprobs])

    def _one(self, entry: TokenLogprob) -> ChatLogprob:
        own = self._token(entry.token_id, entry.logprob)
        top = [self._token(token, logprob) for token, logprob in entry.top[: self._logprobs]]
        return ChatLogprob(own.token, own.logprob, own.bytes, top)

    def _token(self, token_id: int, logprob: float) -> TopLogprob:
        raw = self._tokenizer.token_bytes(token_id)
        return TopLogprob(raw.decode("utf-8", "replace"), logprob, list(raw))


class CompletionFormat:
    """/v1/completions."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, logprobs: int | None) -> None:
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._offsets: dict[int, int] = {}

    def first(self, index: int) -> None:
        """Nothing opens a text."""
        return None

    def chunk(self, index: int, piece: Piece) -> CompletionChoice:
        """The new text."""
        return CompletionChoice(index, piece.text, self._of(index, piece.logprobs), piece.finish_reason)

    def choice(self, index: int, piece: Piece) -> CompletionChoice:
        """The whole text."""
        return self.chunk(index, piece)

    def _of(self, index: int, logprobs: Sequence[TokenLogprob]) -> CompletionLogprobs | None:
        if self._logprobs is None:
            return None
        tokens = [self._text(entry.token_id) for entry in logprobs]
        offsets, at = [], self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(at)
            at += len(token)
        self._offsets[index] = at
        top = [{self._text(t): p for t, p in reversed(entry.top[: self._logprobs])} for entry in logprobs]
        return CompletionLogprobs(tokens, [entry.logprob for entry in logprobs], top, offsets)

    def _text(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")
