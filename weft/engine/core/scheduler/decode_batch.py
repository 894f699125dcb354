"""The requests of one group that decode, as NumPy columns; each has one row in every step.

Python handles a request only at its events: it joins, needs a block, gets a token that may end it, reaches its length
or leaves. The step of all events but a stop token is known in advance, because every request has one row in every
step. Between events a request's own `token_ids` and `num_computed` are out of date; `sync` updates them.

Steps are counted twice: `tick` numbers the next step to plan, `processed` the next step to bring results.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from weft.base.step.plan import DecodeRows
from weft.engine.core.outputs import OutputHeader
from weft.engine.core.request import Request
from weft.engine.core.scheduler.batch_rows import BatchRow, ProcessedRows, StepRows, TickQueue
from weft.engine.core.scheduler.block_growth import BlockGrowth
from weft.engine.core.scheduler.stop_tokens import StopTokenSet

SPAN = 256
"""Steps whose sampled ids are kept; after each full span all rows are synced."""


class DecodeBatch:
    """At most `slots` requests with blocks of `block_size` tokens; sampled ids of `span` steps are kept."""

    def __init__(self, slots: int, block_size: int, span: int = SPAN) -> None:
        self._size, self._span = block_size, span
        self._by_arrival: dict[int, BatchRow] = {}
        self._log: NDArray[np.int32] = np.full((span, slots), -1, np.int32)
        """Sampled ids by step modulo span, and slot. Filled here, so that no step waits for page faults."""
        self._columns: NDArray[np.int64] = np.zeros((3, 0), np.int64)
        """Slot, start and output_pos of each row of the next step, as they were `_moved` steps ago."""
        self._moved = 0
        self._slots, self._moving = self._columns[0], self._columns[1:]
        self._rows: list[BatchRow] = []
        """The rows of `_columns`, some of which may not be planned any more. Replaced, never changed in place."""
        self._headers: list[OutputHeader] = []
        self._joined: list[BatchRow] = []
        self._stale = False
        """Whether `_rows` holds a row that is not planned any more, or `_joined` any row."""
        self._growth = BlockGrowth(block_size)
        self._ending = TickQueue()
        """Rows by the step of their last row, as far as their length decides."""
        self._stop_tokens = StopTokenSet()
        self._joins = self._departures = 0
        self.tick = self.processed = 0
        self.step = -1
        """Index of the last step that was planned."""
        self.num_rows = 0
        """Rows of the next step."""

    def join(self, request: Request) -> None:
        """Adds a request whose last prompt row has just been planned: it has a row from the next step on."""
        self._joins += 1
        row = BatchRow.of(request, self._joins, self.tick)
        self._by_arrival[request.arrival] = row
        self._joined.append(row)
        self._stale = True
        self.num_rows += 1
        self._stop_tokens.add(request.eos_ids | request.stop_ids)
        self._ending.at(row.end - 1).append(row)
        self._growth.join(row, self.tick)

    def leave(self, request: Request) -> None:
        """Syncs and removes a request, if it is here; its rows in flight become dead."""
        row = self._by_arrival.pop(request.arrival, None)
        if row is None:
            return
        self.sync(row)
        self._end_planning(row)
        self._growth.leave(row)
        row.alive = False
        self._departures += 1
        self._stop_tokens.remove(request.eos_ids | request.stop_ids)
        if not self._by_arrival:
            self._reset()

    def youngest(self) -> Request | None:
        """The request that joined last among those with a row in the next step."""
        return next((row.request for row in reversed(self._by_arrival.values()) if row.planned), None)

    def withdraw(self, request: Request) -> int:
        """The request gets no more rows here. The last step that samples a token of it and has not retired, or -1; it
        leaves when that has."""
        row = self._by_arrival[request.arrival]
        request.last_step = self.step
        self._end_planning(row)
        self._growth.leave(row)
        rows_in_flight = self.tick - max(self.processed, row.synced)
        return self.step if rows_in_flight or request.num_sampling else -1

    @property
    def num_needing_blocks(self) -> int:
        """Rows that need a block for their next position."""
        return self._growth.num_needing_blocks

    def take_needing_blocks(self) -> list[BatchRow]:
        """These rows, in the order in which they joined; the caller must `grow` each or let it leave."""
        return self._growth.take_needing_blocks()

    def grow(self, rows: list[BatchRow], blocks: list[int]) -> None:
        """Appends `blocks[i]` to the table of `rows[i]`."""
        self._growth.grow(rows, blocks, self.tick)

    def mark_changed(self, request: Request) -> None:
        """Some entry of the request's block table has changed."""
        row = self._by_arrival.get(request.arrival)
        if row is not None:
            self._growth.mark_changed(row)

    def plan(self, index: int) -> tuple[StepRows, DecodeRows]:
        """The rows of step `index`; no row may need a block any more."""
        np.add(self._moving, self._moved, out=self._moving)
        self._moved = 0
        if self._stale:
            self._rebuild()
        updates = self._growth.table_updates() if self._growth.has_updates else ()
        decodes = DecodeRows(self._columns.tobytes(), *updates)
        rows = StepRows(self._rows, self._slots, self._headers, self.tick, self._departures)
        self.step, self.tick, self._moved = index, self.tick + 1, self._moved + 1
        for row in self._growth.advance(self.tick):
            row.request.last_step = self.step
            self._end_planning(row)
        return rows, decodes

    def process(self, rows: StepRows, result: NDArray[np.int64], extras: Collection[int]) -> ProcessedRows:
        """Takes in the sampled ids [rows] of the oldest step in flight. `extras`: slots with more than an id."""
        self._log[self.processed % self._span][rows.slots] = result
        ending = self._ending.take(self.processed)
        self.processed += 1
        dead = [] if rows.departures == self._departures else [row for row in rows.batch_rows if not row.alive]
        events = {row for row in ending if row.alive}
        if extras or self._stop_tokens.may_be_in(result):
            events.update(self._with_events(rows, result.tolist(), frozenset(extras)))
        if self.processed % self._span == 0:
            for row in self._by_arrival.values():
                if row not in events:  # the caller syncs these, and may have to drop their last result
                    self.sync(row)
        return ProcessedRows(sorted(events, key=lambda row: row.number), dead)

    def _with_events(self, rows: StepRows, ids: list[int], extras: frozenset[int]) -> list[BatchRow]:
        """Rows that got an id that may end them, or have more than an id."""
        pairs = zip(rows.batch_rows, ids, strict=True)
        return [row for row, token in pairs if row.alive and (token in self._stop_tokens or row.request.slot in extras)]

    def sync(self, row: BatchRow, *, but: int = 0) -> None:
        """Brings the request's own fields up to date, without its last `but` results."""
        request, count = row.request, self.processed - row.synced - but
        if count > 0:
            begin = row.synced % self._span  # results of one span only: all rows are synced where a span ends
            request.token_ids += self._log[begin : begin + count, request.slot].tolist()
            request.num_computed += count
        row.synced = max(row.synced, self.processed)
        if row.planned:
            request.last_step = self.step

    def _reset(self) -> None:
        """Drops all references to rows that left: queues would keep their tokens alive until the next request."""
        self._growth, self._ending = BlockGrowth(self._size), TickQueue()
        self._rows, self._joined, self._headers = [], [], []
        self._columns = np.zeros((3, 0), np.int64)
        self._slots, self._moving, self._moved, self._stale = self._columns[0], self._columns[1:], 0, False

    def _end_planning(self, row: BatchRow) -> None:
        if row.planned:
            row.planned, self._stale = False, True
            self.num_rows -= 1

    def _rebuild(self) -> None:
        """Makes the columns anew: without rows that are not planned any more, with those that joined."""
        kept = np.array([row.planned for row in self._rows], np.bool_)
        joined = [row for row in self._joined if row.planned]
        fresh = [(row.request.slot, self.tick + row.offset, self.tick + row.header.output_offset - 1) for row in joined]
        columns = np.array(fresh, np.int64).reshape(-1, 3).T
        # `concatenate` alone would give a Fortran-ordered array, but `plan` goes along columns
        self._columns = np.ascontiguousarray(np.concatenate((self._columns[:, kept], columns), axis=1))
        self._slots, self._moving = self._columns[0], self._columns[1:]
        self._rows = [row for row in self._rows if row.planned] + joined
        self._headers = [row.header for row in self._rows]
        self._joined, self._stale = [], False
