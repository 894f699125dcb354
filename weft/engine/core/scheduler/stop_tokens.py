"""The token ids that may end a request of the decode batch, and whether a step sampled any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

_MOST_MARKS = 1 << 20
"""Ids below it have a mark each; larger ids share one."""


class StopTokenSet:
    """A multiset of token ids: an id stays until each request that added it has removed it."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._marks: NDArray[np.bool_] | None = None
        """[largest id + 2]; None where `counts` has changed."""

    def __contains__(self, token: object) -> bool:
        return token in self.counts

    def add(self, ids: Collection[int]) -> None:
        """Adds the stop ids of a request that joins."""
        for token in ids:
            if not self.counts[token]:
                self._marks = None
            self.counts[token] += 1

    def remove(self, ids: Collection[int]) -> None:
        """Removes ids that were added."""
        for token in ids:
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
                self._marks = None

    def may_be_in(self, ids: NDArray[np.int64]) -> bool:
        """Whether `ids` has any of them. May be True for another id of at least `_MOST_MARKS`; never wrongly False."""
        if self._marks is None:
            self._marks = self._made()
        return bool(self._marks.take(ids, mode="clip").any())

    def _made(self) -> NDArray[np.bool_]:
        ids = np.clip(np.array(list(self.counts), np.int64), 0, _MOST_MARKS)
        marks = np.zeros(min(int(ids.max(initial=-1)) + 2, _MOST_MARKS + 1), np.bool_)
        marks[ids] = True
        return marks
