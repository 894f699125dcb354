"""Columns of requests that flow against a plain twin that looks at every request in every step."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.engine.request import WHOLE, Request
from weft.engine.scheduler.batch_rows import Rows
from weft.engine.scheduler.decode_batch import Flow
from weft.step.plan import Streams
from weft.step.sampling_params import SamplingParams

SLOTS, VOCAB = 12, 40


class Tokens(list[int]):
    """A list that can be referred to weakly."""


@dataclass
class Plain:
    """One request as the twin keeps it: all its tokens, how many rows were planned, and how many have landed."""

    request: Request
    tokens: list[int]
    planned: int
    landed: int

    @property
    def has_row(self) -> bool:
        return self.planned + 1 < self.request.max_len


@dataclass
class Step:
    """A step in flight, of both."""

    rows: Rows
    plain: list[Plain]


@dataclass
class Worlds:
    """A flow, its twin, and what a scheduler does between them."""

    random: Random
    block_size: int
    span: int
    flow: Flow = field(init=False)
    plain: dict[int, Plain] = field(default_factory=dict)
    flying: deque[Step] = field(default_factory=deque)
    tables: dict[int, list[int]] = field(default_factory=dict)
    free: set[int] = field(default_factory=lambda: set(range(SLOTS)))
    arrivals: int = 0
    blocks: int = 0
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.flow = Flow(SLOTS, self.block_size, self.span)

    def join(self) -> None:
        """A request whose prompt was computed, and whose first token is known."""
        held = {plain.request.slot for step in self.flying for plain in step.plain}
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
        request.told = WHOLE
        self.tables[slot] = list(request.table)
        self.free.remove(slot)
        self.flow.join(request)
        self.plain[request.arrival] = Plain(request, tokens, prompt, prompt)

    def leave(self) -> None:
        """Somebody is aborted or preempted: from then on its own fields are all there is."""
        if self.plain:
            self._end(self.random.choice(list(self.plain.values())))

    def displace(self) -> None:
        """A block of a table is another one from now on."""
        plain = self.random.choice([*self.plain.values(), None])
        if plain is not None and plain.has_row:
            request, index = plain.request, self.random.randrange(len(plain.request.table))
            request.table[index] = self._block()
            request.told = min(request.told, index)
            self.flow.tell(request)

    def plan(self) -> None:
        """Who has a row is told by columns as by a look at everybody; ranks know every block that a row needs."""
        rows = [plain for plain in self.plain.values() if plain.has_row]
        wanting = [plain for plain in rows if plain.planned == len(plain.request.table) * self.block_size]
        assert (self.flow.num_rows, self.flow.num_needy) == (len(rows), len(wanting))
        needy = self.flow.take_needy()
        assert [lane.request for lane in needy] == [plain.request for plain in wanting]
        if needy:
            self.flow.grow(needy, [self._block() for _ in needy])
        found, streams = self.flow.plan(len(self.flying))
        expected = [(plain.request.slot, plain.planned, plain.planned + 1 - plain.request.num_prompt) for plain in rows]
        assert [tuple(column) for column in streams.array().T.tolist()] == expected
        self._tell(streams)
        assert all(self.tables[plain.request.slot] == plain.request.table for plain in rows)
        for plain in rows:
            plain.planned += 1
        self.flying.append(Step(found, rows))

    def land(self) -> None:
        """Whoever reached its length, was given an id that may end it or has more to tell is named; then it is settled,
        and nobody has lost a token."""
        if not self.flying:
            return
        step = self.flying.popleft()
        ids = np.array([self.random.randrange(VOCAB) for _ in step.plain], np.int64)
        told = {plain.request.slot for plain in step.plain if self.random.random() < 0.02}
        landed = self.flow.land(step.rows, ids, told)
        alive = [plain for plain in step.plain if self.plain.get(plain.request.arrival) is plain]
        given = dict(zip((plain.request.arrival for plain in step.plain), ids.tolist(), strict=True))
        ends = frozenset(token for plain in self.plain.values() for token in plain.request.eos_ids)
        looked_at = []
        for plain in alive:
            token = given[plain.request.arrival]
            plain.tokens.append(token)
            plain.landed += 1
            if plain.request.slot in told or token in ends or len(plain.tokens) == plain.request.max_len:
                looked_at.append(plain)
        assert [lane.request for lane in landed.looked_at] == [plain.request for plain in looked_at]
        dead = [plain.request for plain in step.plain if plain not in alive]
        assert [lane.request for lane in landed.dead] == dead
        for lane in landed.looked_at:
            assert lane.settled < self.flow.landed, "its last result can no longer be dropped"
            self.flow.settle(lane)
            self._check(self.plain[lane.request.arrival])
        behind = [len(plain.tokens) - len(plain.request.token_ids) for plain in self.plain.values()]
        assert max(behind, default=0) < self.span, "ids that are not kept any more"
        for plain in looked_at:
            if given[plain.request.arrival] in plain.request.eos_ids or len(plain.tokens) == plain.request.max_len:
                self._end(plain)
        self.seen |= {name for name, some in (("dead", dead), ("looked", looked_at)) if some}
        self.seen |= {"behind"} if max(behind, default=0) == self.span - 1 else set()

    def _check(self, plain: Plain) -> None:
        assert plain.request.token_ids == plain.tokens
        assert plain.request.num_computed == plain.landed == len(plain.tokens) - 1

    def _end(self, plain: Plain) -> None:
        self.flow.leave(plain.request)
        self._check(plain)
        del self.plain[plain.request.arrival]
        self.free.add(plain.request.slot)

    def _tell(self, streams: Streams) -> None:
        for slot, known, blocks in streams.news:
            self.tables[slot] = self.tables[slot][:known] + blocks
        for slot, known, block in streams.more_blocks().tolist():
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
            elif len(self.flying) < ahead:
                self.plan()
            else:
                self.land()
        self.flow.settle_all()
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
def test_columns_say_what_a_look_at_everybody_says(
    seed: int, block_size: int, ahead: int, joins: float, span: int
) -> None:
    Worlds(Random(seed), block_size, span).run(250, ahead, joins)


def test_the_worlds_have_everything() -> None:
    worlds = Worlds(Random(1), 1, 3)
    worlds.run(3_000, 2, 0.3)
    assert worlds.seen == {"dead", "looked", "behind"}


def test_nothing_holds_a_request_that_has_left() -> None:
    worlds = Worlds(Random(3), 4, 16)
    worlds.run(200, 2, 0.4)
    while worlds.flying:
        worlds.land()
    tokens = [weakref.ref(plain.request.token_ids) for plain in worlds.plain.values()]
    assert len(tokens) > 3
    while worlds.plain:
        worlds.leave()
    assert not any(each() for each in tokens)
    for _ in range(50):
        worlds.join()
        worlds.plan()
        worlds.land()


@pytest.mark.parametrize("rows", (1, 200))
def test_steps_without_events_are_as_much_python_for_200_requests_as_for_1(rows: int) -> None:
    """None of their objects is touched."""
    flow = Flow(rows, 1 << 10, 1 << 10)
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
            told=WHOLE,
        )
        flow.join(request)
    rest = flow.plan(0)[0]
    lanes = rest.lanes
    before = [(lane.request.token_ids[:], lane.request.num_computed, lane.settled) for lane in lanes]
    for step in range(1, 300):
        landed = flow.land(rest, np.full(rows, 7), ())
        assert landed.looked_at == landed.dead == []
        rest, streams = flow.plan(step)
        assert rest.lanes is lanes and streams.news == [] and not streams.grown
    assert [(lane.request.token_ids, lane.request.num_computed, lane.settled) for lane in lanes] == before
    flow.settle_all()
    assert all(lane.request.token_ids == [1, 2] + [7] * 299 for lane in lanes)
