"""Ends: the ids that may end somebody, and whether a step gave any of them. Knows no request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

_MOST_MARKS = 1 << 20
"""Ids below it have a mark each, those above share one."""


class StopTokenSet:
    """Ids that somebody who flows would end with; each is counted, for it leaves with the last of them."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._marks: NDArray[np.bool_] | None = None
        """By id; None where they are to be made anew."""

    def __contains__(self, token: object) -> bool:
        return token in self.counts

    def add(self, ids: Collection[int]) -> None:
        """Of somebody who begins to flow."""
        for token in ids:
            if not self.counts[token]:
                self._marks = None
            self.counts[token] += 1

    def remove(self, ids: Collection[int]) -> None:
        """As they were added."""
        for token in ids:
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
                self._marks = None

    def may_be_in(self, ids: NDArray[np.int64]) -> bool:
        """Whether any of them is among `ids`; sometimes where only a neighbour beyond all vocabularies is."""
        if self._marks is None:
            self._marks = self._made()
        return bool(self._marks.take(ids, mode="clip").any())

    def _made(self) -> NDArray[np.bool_]:
        ids = np.clip(np.array(list(self.counts), np.int64), 0, _MOST_MARKS)
        marks = np.zeros(min(int(ids.max(initial=-1)) + 2, _MOST_MARKS + 1), np.bool_)
        marks[ids] = True
        return marks
