"""Growth: who of those that flow needs a block in which step, and what ranks are to be told of block tables.

Steps are numbered as `Flow.tick`. Whoever gets a block needs the next one as many steps later as a block has positions,
so those that are due together stay together: Python does next to nothing for each of them. Knows no block's state.
"""

from __future__ import annotations

from array import array
from operator import attrgetter

import numpy as np

from weft.engine.request import WHOLE
from weft.engine.scheduler.batch_rows import Calendar, Lane
from weft.step.plan import WORD

_NUMBER = attrgetter("number")


class Growth:
    """Of one group, in blocks of `block_size` tokens."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._needs = Calendar()
        self._expiring = Calendar()
        """By the step behind their last row, those whose length ends within a block."""
        self._needy: dict[Lane, None] = {}
        self._grown: list[int] = []
        """Slot, known entries and block of tables of which ranks know all but the last block."""
        self._changed: dict[Lane, None] = {}
        """In whose tables ranks do not know more than that: no other planned lane's `told` is below `WHOLE`."""

    def join(self, lane: Lane, tick: int) -> None:
        """Its first row is that of step `tick`."""
        need = len(lane.table) * self._size - lane.offset
        if need == tick:
            self._needy[lane] = None
        else:
            self._file([lane], need)

    @property
    def num_needy(self) -> int:
        """How many need a block for the next step."""
        return len(self._needy)

    def leave(self, lane: Lane) -> None:
        """It needs no block any more."""
        self._needy.pop(lane, None)
        self._changed.pop(lane, None)

    def take_needy(self) -> list[Lane]:
        """Those, in the order in which they began to flow; each is to `grow`, or to leave."""
        needy, self._needy = self._needy, {}
        return sorted(needy, key=_NUMBER)

    def grow(self, lanes: list[Lane], blocks: list[int], tick: int) -> None:
        """Each table has the block that its lane needs in step `tick`. Nobody leaves before that is told (`news`)."""
        grown, changed = self._grown, self._changed
        for lane, block in zip(lanes, blocks, strict=True):
            table = lane.table
            if lane not in changed:
                grown += (lane.slot, len(table), block)
            table.append(block)
        self._file(lanes, tick + self._size)

    def advance(self, tick: int) -> list[Lane]:
        """Step `tick` is the next one: who needs a block for it is needy. Those whose length has ended before it."""
        if due := self._needs.take(tick):
            self._needy |= dict.fromkeys([lane for lane in due if lane.planned and lane.end > tick])
        expiring = self._expiring.take(tick)
        return [lane for lane in expiring if lane.planned] if expiring else expiring

    def tell(self, lane: Lane) -> None:
        """Something in its block table has changed."""
        self._changed[lane] = None

    @property
    def has_news(self) -> bool:
        """Whether ranks are to be told anything."""
        return bool(self._grown or self._changed)

    def news(self) -> tuple[list[tuple[int, int, list[int]]], bytes]:
        """Of block tables, as in the plan: of those with more than a block that is new, and of those with one."""
        news: list[tuple[int, int, list[int]]] = []
        for lane in self._changed:
            request = lane.request
            if lane.planned and request.told < len(lane.table):
                news.append((lane.slot, request.told, lane.table[request.told :]))
                request.told = WHOLE
        grown = array("q", self._grown)  # several times as fast as an array of numpy's from a list
        self._grown, self._changed = [], {}
        return news, np.frombuffer(grown, np.int64).astype(WORD, copy=False).tobytes()

    def _file(self, lanes: list[Lane], need: int) -> None:
        """Each has blocks up to step `need`, where it needs another one unless it has ended."""
        self._needs.at(need).extend(lanes)
        for lane in [lane for lane in lanes if lane.end <= need]:
            self._expiring.at(lane.end).append(lane)
