"""IncrementalDetokenizer: a running sequence's ids as text that is final, and stop strings in it. One per sequence."""

from __future__ import annotations

from collections.abc import Sequence

from weft.base.errors import RequestError
from weft.engine.text.characters import Characters
from weft.engine.text.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Turns generated ids into pieces of text whose concatenation is the decoded whole.

    A piece never ends inside a character, and holds nothing back but bytes of an unfinished character, a run of tokens
    that are a byte each, and text that may be the start of a stop string. Where several stop strings match, the match
    that ends first counts (of those that end together, the longest), so the result does not depend on how the text fell
    into tokens or calls.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_ids: Sequence[int] = (),
        stop: Sequence[str] = (),
        include_stop: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        """prompt_ids: what the generated ids continue; after a text, a leading space of theirs is text too.
        min_tokens: in the text of that many first ids no stop string begins. kept: special tokens that are text too."""
        if not all(stop):
            raise RequestError("stop: an empty string stops nothing", param="stop")
        self.stopped_by: str | None = None
        skip = tokenizer.skipped(skip_special_tokens) - kept
        at_start = all(id in skip for id in prompt_ids)
        self._characters = Characters(tokenizer.pieces, skip, at_start=at_start)
        self._stop = tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._include_stop = include_stop
        self._unwatched = min_tokens
        self._held = ""

    def push(self, ids: Sequence[int]) -> str:
        """Text that became final with `ids`; nothing once `stopped_by` is set."""
        if not (free := self._unwatched):
            return self._final(self._characters.push(ids))
        self._unwatched = max(0, free - len(ids))
        text = self._characters.push(ids[:free])
        return text + self._final(self._characters.push(ids[free:]))

    def finish(self) -> str:
        """The rest: what was held back, an unfinished character as U+FFFD."""
        rest = self._final(self._characters.push((), ended=True))
        held, self._held = self._held, ""
        return rest + held

    def _final(self, text: str) -> str:
        if not self._stop:
            return text
        if self.stopped_by is not None:
            return ""
        text, self._held = self._held + text, ""
        if match := self._first_match(text):
            end, start, self.stopped_by = match
            return text[: end if self._include_stop else start]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def _first_match(self, text: str) -> tuple[int, int, str] | None:
        """(end, start, stop string) of the match that ends first."""
        starts = ((text.find(stop), stop) for stop in self._stop)
        return min(((at + len(stop), at, stop) for at, stop in starts if at >= 0), default=None)

    def _possible_start(self, text: str) -> int:
        """Where the longest end of `text` begins that a stop string may go on from."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stop):
                return at
        return len(text)
