"""Bytes of tokens as characters: what is no character becomes U+FFFD, as the tokenizer's own decoder has it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from weft.engine.text.pieces import Lead, Pieces

UNKNOWN = "\ufffd"


class Characters:
    """Of ids that come one after the other. Tokens that stand for a single byte are characters only as a whole run:
    where that is not UTF-8, each of its bytes becomes U+FFFD. So a run is held back until it ends."""

    def __init__(self, pieces: Pieces, skip: frozenset[int], *, at_start: bool) -> None:
        """`skip`: ids that are no text. `at_start`: nothing stands before them."""
        self._pieces, self._skip, self._at_start = pieces, skip, at_start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._run = b""

    def push(self, ids: Iterable[int], *, ended: bool = False) -> str:
        """Text that became final with `ids`."""
        made = []
        for id in ids:
            if id in self._skip or not (piece := self._pieces[id]):
                continue
            if id in self._pieces.byte_ids:
                self._run += piece
                continue
            made.append(self._ended_run())
            if self._at_start:
                [piece], self._at_start = self._pieces.lead_dropped([piece]), False
            made.append(self._decoder.decode(piece))
        if ended:
            made += [self._ended_run(), self._decoder.decode(b"", True)]
        return "".join(made)

    @property
    def held(self) -> int:
        """Characters that the run has so far."""
        try:
            return len(self._without_lead(codecs.utf_8_decode(self._run, "strict", False)[0]))
        except UnicodeDecodeError:
            return len(self._run)

    def _ended_run(self) -> str:
        run, self._run = self._run, b""
        try:
            text = self._without_lead(run.decode())
        except UnicodeDecodeError:
            text = UNKNOWN * len(run)
        self._at_start = self._at_start and not run
        return text

    def _without_lead(self, text: str) -> str:
        """Of a run."""
        dropped = self._at_start and self._pieces.spelling.lead is not Lead.NOTHING
        return text.removeprefix(" ") if dropped else text
