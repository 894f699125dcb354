"""TokenWords: log-probabilities as the Responses API has them: in items with bytes, in events without."""

from __future__ import annotations

from collections.abc import Sequence

from weft.engine.core.outputs import TokenLogprob
from weft.engine.text import Tokenizer
from weft.frontend.server.responses.events import EventLogprob, EventLogprobTop
from weft.frontend.server.responses.records import TextLogprob, TextLogprobTop


class TokenWords:
    """`most`: alternatives of each token that are shown; None: nothing is."""

    def __init__(self, tokenizer: Tokenizer, most: int | None) -> None:
        self._tokenizer, self._most = tokenizer, most

    def of(self, entries: Sequence[TokenLogprob]) -> list[TextLogprob]:
        """For an item."""
        if self._most is None:
            return []
        made = []
        for entry in entries:
            own = self._token(entry.token_id, entry.logprob)
            top = [self._token(token, logprob) for token, logprob in entry.top[: self._most]]
            made.append(TextLogprob(own.token, own.bytes, own.logprob, top))
        return made

    def shown(self, entries: Sequence[TextLogprob]) -> list[EventLogprob]:
        """For an event."""
        return [
            EventLogprob(one.token, one.logprob, [EventLogprobTop(top.token, top.logprob) for top in one.top_logprobs])
            for one in entries
        ]

    def _token(self, token_id: int, logprob: float) -> TextLogprobTop:
        raw = self._tokenizer.token_bytes(token_id)
        return TextLogprobTop(raw.decode("utf-8", "replace"), list(raw), logprob)
