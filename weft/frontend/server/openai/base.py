"""Format: the words of one of the two endpoints, and what a request wants to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from weft.engine.core.choice import ChoiceDelta
from weft.frontend.server.openai.records import ChatChoice, ChatChunkChoice, CompletionChoice, PromptLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a request wants to see beside text. `logprobs`, `prompt_logprobs`: alternatives, None: nothing."""

    logprobs: int | None = None
    prompt_logprobs: int | None = None
    named: bool = False
    """The alternatives are tokens that the request names: the sampled one stands among them."""
    token_ids: bool = False
    tokens_as_ids: bool = False
    """Tokens in log-probabilities are named "token_id:ID"."""


class Format(Protocol):
    """One endpoint's words."""

    prefix: str
    """Of the answer's id."""
    whole: str
    """`object` of a whole answer."""
    part: str
    """`object` of a chunk."""

    @property
    def shows_ids(self) -> bool:
        """Whether pieces are shown with their token ids."""

    def first(self, index: int) -> ChatChunkChoice | None:
        """What opens a choice before its first piece, if anything."""

    def chunks(self, index: int, piece: ChoiceDelta) -> Sequence[ChatChunkChoice | CompletionChoice]:
        """A piece; none where all of it is held back."""

    def choice(self, index: int, piece: ChoiceDelta) -> ChatChoice | CompletionChoice:
        """All pieces as one."""

    def prompt(self, pieces: Sequence[ChoiceDelta]) -> tuple[list[int] | None, PromptLogprobs | None]:
        """Ids and log-probabilities of the prompt, where the whole answer has them."""

    @property
    def opening_ids(self) -> list[int] | None:
        """Ids of the prompt, where a stream's first chunk has them."""

    def unseen(self, index: int, piece: ChoiceDelta) -> None:
        """Takes a piece of which nothing is shown."""

    def thoughts(self, answers: Sequence[Sequence[ChoiceDelta]] | None = None) -> int | None:
        """Tokens of reasoning of whole answers, or of the chunks so far; None: this endpoint has no reasoning."""
