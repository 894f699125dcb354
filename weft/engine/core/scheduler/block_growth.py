"""When each decoding request needs its next KV block, and the changes of block tables that ranks must get.

Steps are numbered as `DecodeBatch.tick`. A row that gets a block needs the next one `block_size` steps later, so rows
that are due together stay together, and one queue entry serves all of them.
"""

from __future__ import annotations

from array import array
from operator import attrgetter

import numpy as np

from weft.base.step.plan import WORD
from weft.engine.core.request import ALL_BLOCKS
from weft.engine.core.scheduler.batch_rows import BatchRow, TickQueue

_NUMBER = attrgetter("number")


class BlockGrowth:
    """For the rows of one group, with blocks of `block_size` tokens."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._needs = TickQueue()
        self._expiring = TickQueue()
        """Rows whose length ends within a block, by the step after their last row."""
        self._needing: dict[BatchRow, None] = {}
        self._grown: list[int] = []
        """Slot, table length before, block: flat, for tables with one new block at their end."""
        self._changed: dict[BatchRow, None] = {}
        """Rows with other changes: only these, among planned rows, have `num_known` below `ALL_BLOCKS`."""

    def join(self, row: BatchRow, tick: int) -> None:
        """Adds a row whose first step is `tick`."""
        need = len(row.table) * self._size - row.offset
        if need == tick:
            self._needing[row] = None
        else:
            self._file([row], need)

    @property
    def num_needing_blocks(self) -> int:
        """Rows that need a block for the next step."""
        return len(self._needing)

    def leave(self, row: BatchRow) -> None:
        """The row needs no blocks any more."""
        self._needing.pop(row, None)
        self._changed.pop(row, None)

    def take_needing_blocks(self) -> list[BatchRow]:
        """These rows, in the order in which they joined; the caller must `grow` each or let it leave."""
        needing, self._needing = self._needing, {}
        return sorted(needing, key=_NUMBER)

    def grow(self, batch_rows: list[BatchRow], blocks: list[int], tick: int) -> None:
        """Appends to each table the block that its row needs in step `tick`. No row leaves before `table_updates`."""
        grown, changed = self._grown, self._changed
        for row, block in zip(batch_rows, blocks, strict=True):
            table = row.table
            if row not in changed:
                grown += (row.slot, len(table), block)
            table.append(block)
        self._file(batch_rows, tick + self._size)

    def advance(self, tick: int) -> list[BatchRow]:
        """Makes `tick` the next step: finds the rows that need a block for it. Returns rows whose length has ended."""
        if due := self._needs.take(tick):
            self._needing |= dict.fromkeys([row for row in due if row.planned and row.end > tick])
        expiring = self._expiring.take(tick)
        return [row for row in expiring if row.planned] if expiring else expiring

    def mark_changed(self, row: BatchRow) -> None:
        """Some entry of the row's block table has changed."""
        self._changed[row] = None

    @property
    def has_updates(self) -> bool:
        """Whether any block table has changed."""
        return bool(self._grown or self._changed)

    def table_updates(self) -> tuple[list[tuple[int, int, list[int]]], bytes]:
        """`DecodeRows.table_updates` and `DecodeRows.grown` of the step that is planned."""
        updates: list[tuple[int, int, list[int]]] = []
        for row in self._changed:
            request = row.request
            if row.planned and request.num_known < len(row.table):
                updates.append((row.slot, request.num_known, row.table[request.num_known :]))
                request.num_known = ALL_BLOCKS
        grown = array("q", self._grown)  # several times as fast as np.array of a list
        self._grown, self._changed = [], {}
        return updates, np.frombuffer(grown, np.int64).astype(WORD, copy=False).tobytes()

    def _file(self, batch_rows: list[BatchRow], need: int) -> None:
        """Queues rows that have blocks up to step `need`: there they need another one, unless they have ended."""
        self._needs.at(need).extend(batch_rows)
        for row in [row for row in batch_rows if row.end <= need]:
            self._expiring.at(row.end).append(row)
