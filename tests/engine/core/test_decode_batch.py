"""The decode batch's columns against a plain twin that visits every request in every step."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.core.state_checks import sync_all
from weft.base.step.plan import DecodeRows
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.request import ALL_BLOCKS, Request
from weft.engine.core.scheduler.batch_rows import StepRows
from weft.engine.core.scheduler.decode_batch import DecodeBatch

SLOTS, VOCAB = 12, 40


class Tokens(list[int]):
    """A list that can be referred to weakly."""


@dataclass
class Plain:
    """One request as the twin keeps it: all its tokens, how many rows were planned and processed."""

    request: Request
    tokens: list[int]
    planned: int
    processed: int

    @property
    def has_row(self) -> bool:
        return self.planned + 1 < self.request.max_len


@dataclass
class Step:
    """A step in flight, of both."""

    rows: StepRows
    plain: list[Plain]


@dataclass
class Worlds:
    """A decode batch, its twin, and what a scheduler does between them."""

    random: Random
    block_size: int
    span: int
    batch: DecodeBatch = field(init=False)
    plain: dict[int, Plain] = field(default_factory=dict)
    in_flight: deque[Step] = field(default_factory=deque)
    tables: dict[int, list[int]] = field(default_factory=dict)
    free: set[int] = field(default_factory=lambda: set(range(SLOTS)))
    arrivals: int = 0
    blocks: int = 0
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.batch = DecodeBatch(SLOTS, self.block_size, self.span)

    def join(self) -> None:
        """A request whose prompt was computed, and whose first token is known."""
        held = {plain.request.slot for step in self.in_flight for plain in step.plain}
        if not (free := sorted(self.free - held)):
            return
        self.arrivals += 1
        prompt, slot = self.random.randrange(1, 12), self.random.choice(free)
        tokens = [self.random.randrange(VOCAB) for _ in range(prompt + 1)]
        stops = frozenset(self.random.sample(range(VOCAB), self.random.choice((0, 0, 1, 3))))
        request = Request(
            request_id=str(self.arrivals),
            index=0,
            arrival=self.arrivals,
            token_ids=Tokens(tokens),
            num_prompt=prompt,
            max_len=prompt + 2 + self.random.choice((0, 1, 5, 30)),
            params=SamplingParams(),
            seed=0,
            eos_ids=stops,
            stop_ids=frozenset(),
            slot=slot,
            num_computed=prompt,
        )
        request.table = [self._block() for _ in range(-(-prompt // self.block_size))]
        request.num_known = ALL_BLOCKS
        self.tables[slot] = list(request.table)
        self.free.remove(slot)
        self.batch.join(request)
        self.plain[request.arrival] = Plain(request, tokens, prompt, prompt)

    def leave(self) -> None:
        """A request is aborted or preempted: its own fields are then complete."""
        if self.plain:
            self._end(self.random.choice(list(self.plain.values())))

    def displace(self) -> None:
        """A block of a table is another one from now on."""
        plain = self.random.choice([*self.plain.values(), None])
        if plain is not None and plain.has_row:
            request, index = plain.request, self.random.randrange(len(plain.request.table))
            request.table[index] = self._block()
            request.num_known = min(request.num_known, index)
            self.batch.mark_changed(request)

    def plan(self) -> None:
        """The columns have the rows that the twin has; ranks know every block that a row needs."""
        rows = [plain for plain in self.plain.values() if plain.has_row]
        wanting = [plain for plain in rows if plain.planned == len(plain.request.table) * self.block_size]
        assert (self.batch.num_rows, self.batch.num_needing_blocks) == (len(rows), len(wanting))
        needing = self.batch.take_needing_blocks()
        assert [row.request for row in needing] == [plain.request for plain in wanting]
        if needing:
            self.batch.grow(needing, [self._block() for _ in needing])
        found, streams = self.batch.plan(len(self.in_flight))
        expected = [(plain.request.slot, plain.planned, plain.planned + 1 - plain.request.num_prompt) for plain in rows]
        assert [tuple(column) for column in streams.array().T.tolist()] == expected
        self._apply(streams)
        assert all(self.tables[plain.request.slot] == plain.request.table for plain in rows)
        for plain in rows:
            plain.planned += 1
        self.in_flight.append(Step(found, rows))

    def process(self) -> None:
        """Requests at their length, with an id that may end them or with extras have events; once synced, no request
        has lost a token."""
        if not self.in_flight:
            return
        step = self.in_flight.popleft()
        ids = np.array([self.random.randrange(VOCAB) for _ in step.plain], np.int64)
        extras = {plain.request.slot for plain in step.plain if self.random.random() < 0.02}
        processed = self.batch.process(step.rows, ids, extras)
        alive = [plain for plain in step.plain if self.plain.get(plain.request.arrival) is plain]
        given = dict(zip((plain.request.arrival for plain in step.plain), ids.tolist(), strict=True))
        ends = frozenset(token for plain in self.plain.values() for token in plain.request.eos_ids)
        events = []
        for plain in alive:
            token = given[plain.request.arrival]
            plain.tokens.append(token)
            plain.processed += 1
            if plain.request.slot in extras or token in ends or len(plain.tokens) == plain.request.max_len:
                events.append(plain)
        assert [row.request for row in processed.events] == [plain.request for plain in events]
        dead = [plain.request for plain in step.plain if plain not in alive]
        assert [row.request for row in processed.dead] == dead
        for row in processed.events:
            assert row.synced < self.batch.processed, "its last result can no longer be dropped"
            self.batch.sync(row)
            self._check(self.plain[row.request.arrival])
        unsynced = [len(plain.tokens) - len(plain.request.token_ids) for plain in self.plain.values()]
        assert max(unsynced, default=0) < self.span, "ids that are not kept any more"
        for plain in events:
            if given[plain.request.arrival] in plain.request.eos_ids or len(plain.tokens) == plain.request.max_len:
                self._end(plain)
        self.seen |= {name for name, some in (("dead", dead), ("looked", events)) if some}
        self.seen |= {"unsynced"} if max(unsynced, default=0) == self.span - 1 else set()

    def _check(self, plain: Plain) -> None:
        assert plain.request.token_ids == plain.tokens
        assert plain.request.num_computed == plain.processed == len(plain.tokens) - 1

    def _end(self, plain: Plain) -> None:
        self.batch.leave(plain.request)
        self._check(plain)
        del self.plain[plain.request.arrival]
        self.free.add(plain.request.slot)

    def _apply(self, streams: DecodeRows) -> None:
        for slot, known, blocks in streams.table_updates:
            self.tables[slot] = self.tables[slot][:known] + blocks
        for slot, known, block in streams.new_blocks().tolist():
            self.tables[slot] = [*self.tables[slot][:known], block]

    def _block(self) -> int:
        self.blocks += 1
        return self.blocks

    def run(self, events: int, ahead: int, joins: float) -> None:
        """Random events, with at most `ahead` steps in flight."""
        for _ in range(events):
            draw = self.random.random()
            if draw < joins:
                self.join()
            elif draw < joins + 0.03:
                self.leave()
            elif draw < joins + 0.06:
                self.displace()
            elif len(self.in_flight) < ahead:
                self.plan()
            else:
                self.process()
        sync_all(self.batch)
        for plain in self.plain.values():
            self._check(plain)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_size=st.sampled_from((1, 2, 4, 16)),
    ahead=st.integers(1, 3),
    joins=st.sampled_from((0.03, 0.15, 0.4)),
    span=st.sampled_from((1, 2, 7, 256)),
)
def test_columns_equal_a_visit_of_every_request(
    seed: int, block_size: int, ahead: int, joins: float, span: int
) -> None:
    Worlds(Random(seed), block_size, span).run(250, ahead, joins)


def test_the_worlds_have_everything() -> None:
    worlds = Worlds(Random(1), 1, 3)
    worlds.run(3_000, 2, 0.3)
    assert worlds.seen == {"dead", "looked", "unsynced"}


def test_nothing_holds_a_request_that_has_left() -> None:
    worlds = Worlds(Random(3), 4, 16)
    worlds.run(200, 2, 0.4)
    while worlds.in_flight:
        worlds.process()
    tokens = [weakref.ref(plain.request.token_ids) for plain in worlds.plain.values()]
    assert len(tokens) > 3
    while worlds.plain:
        worlds.leave()
    assert not any(each() for each in tokens)
    for _ in range(50):
        worlds.join()
        worlds.plan()
        worlds.process()


@pytest.mark.parametrize("rows", (1, 200))
def test_steps_without_events_are_as_much_python_for_200_requests_as_for_1(rows: int) -> None:
    """None of their objects is touched."""
    batch = DecodeBatch(rows, 1 << 10, 1 << 10)
    for slot in range(rows):
        request = Request(
            request_id=str(slot),
            index=0,
            arrival=slot,
            token_ids=[1, 2],
            num_prompt=1,
            max_len=500,
            params=SamplingParams(),
            seed=0,
            eos_ids=frozenset((9,)),
            stop_ids=frozenset(),
            slot=slot,
            num_computed=1,
            table=[slot + 1],
            num_known=ALL_BLOCKS,
        )
        batch.join(request)
    rest = batch.plan(0)[0]
    batch_rows = rest.batch_rows
    before = [(row.request.token_ids[:], row.request.num_computed, row.synced) for row in batch_rows]
    for step in range(1, 300):
        processed = batch.process(rest, np.full(rows, 7), ())
        assert processed.events == processed.dead == []
        rest, streams = batch.plan(step)
        assert rest.batch_rows is batch_rows and streams.table_updates == [] and not streams.grown
    assert [(row.request.token_ids, row.request.num_computed, row.synced) for row in batch_rows] == before
    sync_all(batch)
    assert all(row.request.token_ids == [1, 2] + [7] * 299 for row in batch_rows)
