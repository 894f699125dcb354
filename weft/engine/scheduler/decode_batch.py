"""Flow: the requests of one group that decode, as columns that a step moves on by one row each, however many they are.

Python looks at a request only at its events: it begins to flow, needs a block, is given an id that may end it, reaches
its length, leaves, or has as many results as are kept here. Since every request that flows has one row in every step,
when its next event comes by itself is known ahead, and kept by step. Between events what a request's own fields say of
its tokens is behind; `settle` brings it up to date. Knows no block and no budget.

Steps are counted twice: `tick` is the number of the next to be planned, `landed` of the next to bring results.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from weft.engine.outputs import Head
from weft.engine.request import Request
from weft.engine.scheduler.batch_rows import Calendar, Landed, Lane, Rows
from weft.engine.scheduler.block_growth import Growth
from weft.engine.scheduler.stop_tokens import Ends
from weft.step.plan import Streams

SPAN = 256
"""Steps whose ids are kept: each lane is settled that often at least."""


class Flow:
    """`slots` requests at most, in blocks of `block_size` tokens; the ids of `span` steps are kept."""

    def __init__(self, slots: int, block_size: int, span: int = SPAN) -> None:
        self._size, self._span, self._settled_together = block_size, span, -(-slots // span)
        self._lanes: dict[int, Lane] = {}
        self._log: NDArray[np.int32] = np.full((span, slots), -1, np.int32)
        """Ids by step, the last ones, and slot. Written here, so that no step waits for its first page."""
        self._columns: NDArray[np.int64] = np.zeros((3, 0), np.int64)
        """Slot, start and output_pos of each row of the next step, `_moved` steps ago."""
        self._moved = 0
        self._slots, self._moving = self._columns[0], self._columns[1:]
        self._rows: list[Lane] = []
        """Whose rows they are, beside some of lanes that are not planned any more; never changed, but replaced."""
        self._heads: list[Head] = []
        self._joined: list[Lane] = []
        self._stale = False
        """Whether `_rows` holds somebody who is not planned any more, or `_joined` anybody."""
        self._growth = Growth(block_size)
        self._lands = Calendar()
        self._ends = Ends()
        self._joins = self._departures = 0
        self.tick = self.landed = 0
        self.step = -1
        """Index of the last step that was planned."""
        self.num_rows = 0
        """Of the next step."""

    def join(self, request: Request) -> None:
        """From the next step on it has a row: its last prompt row has just been planned."""
        self._joins += 1
        lane = Lane.of(request, self._joins, self.tick)
        self._lanes[request.arrival] = lane
        self._joined.append(lane)
        self._stale = True
        self.num_rows += 1
        self._ends.add(request.eos_ids | request.stop_ids)
        # many that begin together are not due together, but where they are more than `span` neighbours in `_log` are
        later = self._span - 1 - request.slot // self._settled_together
        self._lands.at(min(self.tick + later, lane.end - 1)).append(lane)
        self._growth.join(lane, self.tick)

    def leave(self, request: Request) -> None:
        """It is settled, and flows no more; what it has in flight is for nothing."""
        lane = self._lanes.pop(request.arrival, None)
        if lane is None:
            return
        self.settle(lane)
        self._end_planning(lane)
        self._growth.leave(lane)
        lane.alive = False
        self._departures += 1
        self._ends.remove(request.eos_ids | request.stop_ids)
        if not self._lanes:
            self._forget()

    @property
    def num_needy(self) -> int:
        """How many need a block for their next position."""
        return self._growth.num_needy

    def take_needy(self) -> list[Lane]:
        """Those, in the order in which they began to flow; each is to `grow`, or to leave."""
        return self._growth.take_needy()

    def grow(self, lanes: list[Lane], blocks: list[int]) -> None:
        """Each table has the block that its lane needed."""
        self._growth.grow(lanes, blocks, self.tick)

    def tell(self, request: Request) -> None:
        """Something in its block table has changed."""
        lane = self._lanes.get(request.arrival)
        if lane is not None:
            self._growth.tell(lane)

    def plan(self, index: int) -> tuple[Rows, Streams]:
        """The rows of step `index`, which has begun to be planned; nobody is needy."""
        np.add(self._moving, self._moved, out=self._moving)
        self._moved = 0
        if self._stale:
            self._sort_out()
        news = self._growth.news() if self._growth.has_news else ()
        streams = Streams(self._columns.tobytes(), *news)
        rows = Rows(self._rows, self._slots, self._heads, self.tick, self._departures)
        self.step, self.tick, self._moved = index, self.tick + 1, self._moved + 1
        for lane in self._growth.advance(self.tick):
            lane.request.last_step = self.step
            self._end_planning(lane)
        return rows, streams

    def land(self, rows: Rows, result: NDArray[np.int64], told: Collection[int]) -> Landed:
        """Takes in the ids of the oldest step in flight. `told`: whose slots have more to tell."""
        self._log[self.landed % self._span][rows.slots] = result
        due = self._lands.take(self.landed)
        self.landed += 1
        dead = [] if rows.departures == self._departures else [lane for lane in rows.lanes if not lane.alive]
        looks = told or self._ends.may_be_in(result)
        if not (due or looks):  # most steps: this is all that Python does for them
            return Landed([], dead)
        due = [lane for lane in due if lane.alive]
        looked_at = [lane for lane in due if lane.end == self.landed]
        if looks:
            looked_at += self._telling(rows, result.tolist(), frozenset(told))
        named = set(looked_at)
        for lane in due:
            if lane.end > self.landed:
                self._lands.at(min(self.landed + self._span, lane.end) - 1).append(lane)
            if lane not in named:  # whose last result may have to be dropped
                self.settle(lane)
        return Landed(sorted(named, key=lambda lane: lane.number), dead)

    def _telling(self, rows: Rows, ids: list[int], told: frozenset[int]) -> list[Lane]:
        """Who may have been given the id that ends it, or has more to tell than an id."""
        pairs = zip(rows.lanes, ids, strict=True)
        return [each for each, token in pairs if each.alive and (token in self._ends or each.request.slot in told)]

    def settle(self, lane: Lane, *, but: int = 0) -> None:
        """What its request says of itself is true now; the last `but` results that it has are dropped."""
        request, count = lane.request, self.landed - lane.settled - but
        if count > 0:
            begin, end = lane.settled % self._span, (lane.settled + count) % self._span
            column = self._log[:, request.slot]
            ids = column[begin:end] if begin < end else np.concatenate((column[begin:], column[:end]))
            request.token_ids += ids.tolist()
            request.num_computed += count
        lane.settled = max(lane.settled, self.landed)
        if lane.planned:
            request.last_step = self.step

    def settle_all(self) -> None:
        """As `settle`, everybody."""
        for lane in self._lanes.values():
            self.settle(lane)

    def _forget(self) -> None:
        """Nobody flows: what is filed for those that did holds their tokens, perhaps until somebody comes next day."""
        self._growth, self._lands = Growth(self._size), Calendar()
        self._rows, self._joined, self._heads = [], [], []
        self._columns = np.zeros((3, 0), np.int64)
        self._slots, self._moving, self._moved, self._stale = self._columns[0], self._columns[1:], 0, False

    def _end_planning(self, lane: Lane) -> None:
        if lane.planned:
            lane.planned, self._stale = False, True
            self.num_rows -= 1

    def _sort_out(self) -> None:
        kept = np.array([lane.planned for lane in self._rows], np.bool_)
        joined = [lane for lane in self._joined if lane.planned]
        fresh = [(lane.request.slot, self.tick + lane.offset, self.tick + lane.head.before - 1) for lane in joined]
        columns = np.array(fresh, np.int64).reshape(-1, 3).T
        # concatenated by themselves they would lie row by row, where a step goes along columns
        self._columns = np.ascontiguousarray(np.concatenate((self._columns[:, kept], columns), axis=1))
        self._slots, self._moving = self._columns[0], self._columns[1:]
        self._rows = [lane for lane in self._rows if lane.planned] + joined
        self._heads = [lane.head for lane in self._rows]
        self._joined, self._stale = [], False
