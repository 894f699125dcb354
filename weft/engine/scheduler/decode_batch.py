"""DecodeBatch: the requests of one group that decode, as columns that a step moves on by one row each, however many they are.

Python looks at a request only at its events: it begins to flow, needs a block, is given an id that may end it, reaches
its length, leaves, or has as many results as are kept here. Since every request that flows has one row in every step,
when its next event comes by itself is known ahead, and kept by step. Between events what a request's own fields say of
its tokens is behind; `sync` brings it up to date. Knows no block and no budget.

Steps are counted twice: `tick` is the number of the next to be planned, `processed` of the next to bring results.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from weft.engine.outputs import OutputHeader
from weft.engine.request import Request
from weft.engine.scheduler.batch_rows import BatchRow, ProcessedRows, StepRows, TickQueue
from weft.engine.scheduler.block_growth import BlockGrowth
from weft.engine.scheduler.stop_tokens import StopTokenSet
from weft.step.plan import DecodeRows

SPAN = 256
"""Steps whose ids are kept: each lane is settled that often at least."""


class DecodeBatch:
    """`slots` requests at most, in blocks of `block_size` tokens; the ids of `span` steps are kept."""

    def __init__(self, slots: int, block_size: int, span: int = SPAN) -> None:
        self._size, self._span, self._settled_together = block_size, span, -(-slots // span)
        self._by_arrival: dict[int, BatchRow] = {}
        self._log: NDArray[np.int32] = np.full((span, slots), -1, np.int32)
        """Ids by step, the last ones, and slot. Written here, so that no step waits for its first page."""
        self._columns: NDArray[np.int64] = np.zeros((3, 0), np.int64)
        """Slot, start and output_pos of each row of the next step, `_moved` steps ago."""
        self._moved = 0
        self._slots, self._moving = self._columns[0], self._columns[1:]
        self._rows: list[BatchRow] = []
        """Whose rows they are, beside some of lanes that are not planned any more; never changed, but replaced."""
        self._heads: list[OutputHeader] = []
        self._joined: list[BatchRow] = []
        self._stale = False
        """Whether `_rows` holds somebody who is not planned any more, or `_joined` anybody."""
        self._growth = BlockGrowth(block_size)
        self._lands = TickQueue()
        self._ends = StopTokenSet()
        self._joins = self._departures = 0
        self.tick = self.processed = 0
        self.step = -1
        """Index of the last step that was planned."""
        self.num_rows = 0
        """Of the next step."""

    def join(self, request: Request) -> None:
        """From the next step on it has a row: its last prompt row has just been planned."""
        self._joins += 1
        row = BatchRow.of(request, self._joins, self.tick)
        self._by_arrival[request.arrival] = row
        self._joined.append(row)
        self._stale = True
        self.num_rows += 1
        self._ends.add(request.eos_ids | request.stop_ids)
        # many that begin together are not due together, but where they are more than `span` neighbours in `_log` are
        later = self._span - 1 - request.slot // self._settled_together
        self._lands.at(min(self.tick + later, row.end - 1)).append(row)
        self._growth.join(row, self.tick)

    def leave(self, request: Request) -> None:
        """It is settled, and flows no more; what it has in flight is for nothing."""
        row = self._by_arrival.pop(request.arrival, None)
        if row is None:
            return
        self.sync(row)
        self._end_planning(row)
        self._growth.leave(row)
        row.alive = False
        self._departures += 1
        self._ends.remove(request.eos_ids | request.stop_ids)
        if not self._by_arrival:
            self._forget()

    @property
    def num_needing_blocks(self) -> int:
        """How many need a block for their next position."""
        return self._growth.num_needing_blocks

    def take_needing_blocks(self) -> list[BatchRow]:
        """Those, in the order in which they began to flow; each is to `grow`, or to leave."""
        return self._growth.take_needing_blocks()

    def grow(self, batch_rows: list[BatchRow], blocks: list[int]) -> None:
        """Each table has the block that its lane needed."""
        self._growth.grow(batch_rows, blocks, self.tick)

    def mark_changed(self, request: Request) -> None:
        """Something in its block table has changed."""
        row = self._by_arrival.get(request.arrival)
        if row is not None:
            self._growth.mark_changed(row)

    def plan(self, index: int) -> tuple[StepRows, DecodeRows]:
        """The rows of step `index`, which has begun to be planned; nobody is needy."""
        np.add(self._moving, self._moved, out=self._moving)
        self._moved = 0
        if self._stale:
            self._sort_out()
        table_updates = self._growth.table_updates() if self._growth.has_updates else ()
        streams = DecodeRows(self._columns.tobytes(), *table_updates)
        rows = StepRows(self._rows, self._slots, self._heads, self.tick, self._departures)
        self.step, self.tick, self._moved = index, self.tick + 1, self._moved + 1
        for row in self._growth.advance(self.tick):
            row.request.last_step = self.step
            self._end_planning(row)
        return rows, streams

    def process(self, rows: StepRows, result: NDArray[np.int64], extras: Collection[int]) -> ProcessedRows:
        """Takes in the ids of the oldest step in flight. `extras`: whose slots have more to tell."""
        self._log[self.processed % self._span][rows.slots] = result
        due = self._lands.take(self.processed)
        self.processed += 1
        dead = [] if rows.departures == self._departures else [row for row in rows.batch_rows if not row.alive]
        has_events = extras or self._ends.may_be_in(result)
        if not (due or has_events):  # most steps: this is all that Python does for them
            return ProcessedRows([], dead)
        due = [row for row in due if row.alive]
        events = [row for row in due if row.end == self.processed]
        if has_events:
            events += self._with_events(rows, result.tolist(), frozenset(extras))
        named = set(events)
        for row in due:
            if row.end > self.processed:
                self._lands.at(min(self.processed + self._span, row.end) - 1).append(row)
            if row not in named:  # whose last result may have to be dropped
                self.sync(row)
        return ProcessedRows(sorted(named, key=lambda row: row.number), dead)

    def _with_events(self, rows: StepRows, ids: list[int], extras: frozenset[int]) -> list[BatchRow]:
        """Who may have been given the id that ends it, or has more to tell than an id."""
        pairs = zip(rows.batch_rows, ids, strict=True)
        return [each for each, token in pairs if each.alive and (token in self._ends or each.request.slot in extras)]

    def sync(self, row: BatchRow, *, but: int = 0) -> None:
        """What its request says of itself is true now; the last `but` results that it has are dropped."""
        request, count = row.request, self.processed - row.synced - but
        if count > 0:
            begin, end = row.synced % self._span, (row.synced + count) % self._span
            column = self._log[:, request.slot]
            ids = column[begin:end] if begin < end else np.concatenate((column[begin:], column[:end]))
            request.token_ids += ids.tolist()
            request.num_computed += count
        row.synced = max(row.synced, self.processed)
        if row.planned:
            request.last_step = self.step

    def sync_all(self) -> None:
        """As `sync`, everybody."""
        for row in self._by_arrival.values():
            self.sync(row)

    def _forget(self) -> None:
        """Nobody flows: what is filed for those that did holds their tokens, perhaps until somebody comes next day."""
        self._growth, self._lands = BlockGrowth(self._size), TickQueue()
        self._rows, self._joined, self._heads = [], [], []
        self._columns = np.zeros((3, 0), np.int64)
        self._slots, self._moving, self._moved, self._stale = self._columns[0], self._columns[1:], 0, False

    def _end_planning(self, row: BatchRow) -> None:
        if row.planned:
            row.planned, self._stale = False, True
            self.num_rows -= 1

    def _sort_out(self) -> None:
        kept = np.array([row.planned for row in self._rows], np.bool_)
        joined = [row for row in self._joined if row.planned]
        fresh = [(row.request.slot, self.tick + row.offset, self.tick + row.header.output_offset - 1) for row in joined]
        columns = np.array(fresh, np.int64).reshape(-1, 3).T
        # concatenated by themselves they would lie row by row, where a step goes along columns
        self._columns = np.ascontiguousarray(np.concatenate((self._columns[:, kept], columns), axis=1))
        self._slots, self._moving = self._columns[0], self._columns[1:]
        self._rows = [row for row in self._rows if row.planned] + joined
        self._heads = [row.header for row in self._rows]
        self._joined, self._stale = [], False
