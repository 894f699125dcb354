"""Growth: who of those that flow needs a block in which step, and what ranks are to be told of block tables.

Steps are numbered as `DecodeBatch.tick`. Whoever gets a block needs the next one as many steps later as a block has positions,
so those that are due together stay together: Python does next to nothing for each of them. Knows no block's state.
"""

from __future__ import annotations

from array import array
from operator import attrgetter

import numpy as np

from weft.engine.request import ALL_BLOCKS
from weft.engine.scheduler.batch_rows import BatchRow, TickQueue
from weft.step.plan import WORD

_NUMBER = attrgetter("number")


class BlockGrowth:
    """Of one group, in blocks of `block_size` tokens."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._needs = TickQueue()
        self._expiring = TickQueue()
        """By the step behind their last row, those whose length ends within a block."""
        self._needing: dict[BatchRow, None] = {}
        self._grown: list[int] = []
        """Slot, known entries and block of tables of which ranks know all but the last block."""
        self._changed: dict[BatchRow, None] = {}
        """In whose tables ranks do not know more than that: no other planned lane's `extras` is below `ALL_BLOCKS`."""

    def join(self, row: BatchRow, tick: int) -> None:
        """Its first row is that of step `tick`."""
        need = len(row.table) * self._size - row.offset
        if need == tick:
            self._needing[row] = None
        else:
            self._file([row], need)

    @property
    def num_needing_blocks(self) -> int:
        """How many need a block for the next step."""
        return len(self._needing)

    def leave(self, row: BatchRow) -> None:
        """It needs no block any more."""
        self._needing.pop(row, None)
        self._changed.pop(row, None)

    def take_needing_blocks(self) -> list[BatchRow]:
        """Those, in the order in which they began to flow; each is to `grow`, or to leave."""
        needing, self._needing = self._needing, {}
        return sorted(needing, key=_NUMBER)

    def grow(self, batch_rows: list[BatchRow], blocks: list[int], tick: int) -> None:
        """Appends to each table the block that its row needs in step `tick`; no row leaves before `table_updates`."""
        grown, changed = self._grown, self._changed
        for row, block in zip(batch_rows, blocks, strict=True):
            table = row.table
            if row not in changed:
                grown += (row.slot, len(table), block)
            table.append(block)
        self._file(batch_rows, tick + self._size)

    def advance(self, tick: int) -> list[BatchRow]:
        """Step `tick` is the next one: who needs a block for it is needy. Those whose length has ended before it."""
        if due := self._needs.take(tick):
            self._needing |= dict.fromkeys([row for row in due if row.planned and row.end > tick])
        expiring = self._expiring.take(tick)
        return [row for row in expiring if row.planned] if expiring else expiring

    def mark_changed(self, row: BatchRow) -> None:
        """Something in its block table has changed."""
        self._changed[row] = None

    @property
    def has_updates(self) -> bool:
        """Whether ranks are to be told anything."""
        return bool(self._grown or self._changed)

    def table_updates(self) -> tuple[list[tuple[int, int, list[int]]], bytes]:
        """Of block tables, as in the plan: of those with more than a block that is new, and of those with one."""
        table_updates: list[tuple[int, int, list[int]]] = []
        for row in self._changed:
            request = row.request
            if row.planned and request.num_known < len(row.table):
                table_updates.append((row.slot, request.num_known, row.table[request.num_known :]))
                request.num_known = ALL_BLOCKS
        grown = array("q", self._grown)  # several times as fast as an array of numpy's from a list
        self._grown, self._changed = [], {}
        return table_updates, np.frombuffer(grown, np.int64).astype(WORD, copy=False).tobytes()

    def _file(self, batch_rows: list[BatchRow], need: int) -> None:
        """Each has blocks up to step `need`, where it needs another one unless it has ended."""
        self._needs.at(need).extend(batch_rows)
        for row in [row for row in batch_rows if row.end <= need]:
            self._expiring.at(row.end).append(row)
