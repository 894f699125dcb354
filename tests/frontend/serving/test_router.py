"""Where requests go among replicas: a simulation of any arrivals, ends, deaths; and what the rule is worth."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.base.step.sampling_params import SamplingParams
from weft.frontend.serving.router import EXPECTED_TOKENS, Job, Router, job_of

BLOCK, SLOTS = 4, 5
FAMILIES = 5
"""Prompts of a family begin alike."""


def prompt(family: int, length: int, own: int) -> list[int]:
    """Half of it is the family's."""
    shared = [family * 1000 + place for place in range(length // 2)]
    return shared + [own * 7919 % 100_000 + place for place in range(length - len(shared))]


def job(family: int, length: int, own: int, n: int = 1) -> Job:
    return job_of(prompt(family, length, own), SamplingParams(max_tokens=8, n=n), BLOCK)


@dataclass
class Ledger:
    """What the router should know, kept the plain way: every open job, every chain that was sent, nothing forgotten."""

    replicas: int
    open: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    sent: list[set[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sent = [set() for _ in range(self.replicas)]

    def load(self, replica: int) -> int:
        return sum(prompt + answers for at, prompt, answers in self.open.values() if at == replica)

    def full(self, replica: int, outputs: int) -> bool:
        taken = sum(self.outputs[request_id] for request_id, (at, _, _) in self.open.items() if at == replica)
        return taken + outputs > SLOTS

    def cached(self, replica: int, work: Job) -> int:
        found = [digest in self.sent[replica] for digest in work.digests]
        return (found.index(False) if False in found else len(found)) * work.block_size


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, FAMILIES - 1), st.integers(1, 40), st.integers(0, 9)),
        st.tuples(st.just("first token"), st.integers(0, 99), st.just(0), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 99), st.just(0), st.just(0)),
        st.tuples(st.just("die"), st.integers(0, 3), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(replicas=st.integers(1, 4), events=EVENTS, data=st.data())
def test_any_history(replicas: int, events: list[tuple[str, int, int, int]], data: st.DataObject) -> None:
    """The loads are those of a plain ledger, no request waits for a slot while there is one elsewhere, nor is sent
    to where more work is left than the prefix saves."""
    router, ledger = Router(replicas), Ledger(replicas)
    for replica in range(replicas):
        router.open(replica, 10**6, SLOTS)
    for number, (what, one, length, own) in enumerate(events):
        ids = list(ledger.open)
        if what == "arrive":
            works = {f"{number}-{part}": job(one, length, own + part, 1 + own % 3) for part in range(1 + own % 2)}
            among = sorted(data.draw(st.sets(st.integers(0, replicas - 1), min_size=1)))
            saved = {r: sum(ledger.cached(r, work) for work in works.values()) for r in among}
            loads = {r: ledger.load(r) for r in among}
            for replica in among:
                assert sum(router.cached(replica, work) for work in works.values()) == saved[replica]
            chosen = router.place(works, among)
            assert chosen in among
            full = {r: ledger.full(r, sum(work.outputs for work in works.values())) for r in among}
            assert full[chosen] == all(full.values())
            for other in among:
                assert full[other] > full[chosen] or loads[chosen] - loads[other] <= saved[chosen] - saved[other]
            for request_id, work in works.items():
                ledger.outputs[request_id] = work.outputs
                ledger.open[request_id] = (chosen, work.tokens - ledger.cached(chosen, work), work.answers)
                ledger.sent[chosen].update(work.digests)
        elif what == "die":
            router.open(one % replicas, 10**6, SLOTS)
            ledger.sent[one % replicas].clear()
        elif ids:
            request_id = ids[one % len(ids)]
            replica, _, answers = ledger.open[request_id]
            if what == "end":
                router.end(request_id)
                del ledger.open[request_id]
            else:
                router.computed(request_id)
                ledger.open[request_id] = (replica, 0, answers)
        assert [router.load(r) for r in range(replicas)] == [ledger.load(r) for r in range(replicas)]
        assert [router.remembered(r) for r in range(replicas)] == [len(ledger.sent[r]) for r in range(replicas)]
    for request_id in ledger.open:
        router.end(request_id)
        router.end(request_id)
    assert [router.load(r) for r in range(replicas)] == [0] * replicas


@settings(max_examples=100, deadline=None)
@given(blocks=st.integers(0, 12), lengths=st.lists(st.integers(1, 80), max_size=20))
def test_no_more_is_remembered_than_a_cache_holds(blocks: int, lengths: list[int]) -> None:
    router = Router(1)
    router.open(0, blocks, SLOTS)
    for number, length in enumerate(lengths):
        work = job(0, length, number)
        router.place({str(number): work}, [0])
        assert router.remembered(0) <= blocks
        assert router.cached(0, work) == min(blocks, len(work.digests)) * BLOCK, "the newest prompt, from its start"


def test_alike_requests_are_spread_evenly() -> None:
    router = Router(3)
    chosen = [router.place({str(i): Job(100, 50)}, range(3)) for i in range(30)]
    assert [chosen.count(replica) for replica in range(3)] == [10, 10, 10]


def test_idle_replicas_share_unrelated_prompts() -> None:
    """Otherwise all prompts of a quiet server would crowd one cache."""
    router = Router(2)
    for replica in range(2):
        router.open(replica, 1000, 100)
    chosen = []
    for number in range(10):
        chosen.append(router.place({str(number): job(number, 40, number)}, range(2)))
        router.end(str(number))
    assert chosen.count(0) == chosen.count(1) == 5


def test_a_prefix_draws_until_others_have_less_to_do() -> None:
    """The bound: as many tokens of work more as the prefix has."""
    router = Router(2)
    for replica in range(2):
        router.open(replica, 1000, 100)
    shared = tuple(bytes([block]) for block in range(25))
    home = router.place({"first": Job(100, 10, 1, shared, BLOCK)}, range(2))
    router.end("first")
    chosen = [router.place({str(i): Job(110, 10, 1, shared, BLOCK)}, range(2)) for i in range(10)]
    assert chosen[:5] == [home] * 5 and 1 - home in chosen
    for number in range(10):
        router.end(str(number))
    assert router.place({"later": Job(110, 10, 1, shared, BLOCK)}, [1 - home]) == 1 - home, "both have it now"
    assert router.cached(0, Job(110, 10, 1, shared, BLOCK)) == router.cached(1, Job(110, 10, 1, shared, BLOCK)) == 100


def test_a_computed_prompt_is_no_work_left() -> None:
    router = Router(2)
    assert router.place({"long": Job(100_000, 50)}, range(2)) == 0
    assert router.place({"a": Job(10, 50)}, range(2)) == 1
    router.computed("long")
    assert router.load(0) == 50
    assert router.place({"b": Job(10, 50)}, range(2)) == 0


def test_a_slot_comes_before_a_prefix() -> None:
    router = Router(2)
    for replica in range(2):
        router.open(replica, 1000, 2)
    shared = tuple(bytes([block]) for block in range(250))
    chosen = []
    for number in range(5):
        chosen.append(router.place({str(number): Job(1000, 10, 1, shared, BLOCK)}, range(2)))
        router.computed(str(number))
    assert chosen == [0, 0, 1, 1, 0]


def test_answers_are_not_taken_at_their_limit() -> None:
    assert job_of([1, 2], SamplingParams(max_tokens=None, n=2), None) == Job(2, 2 * EXPECTED_TOKENS, 2)
    assert job_of([1, 2], SamplingParams(max_tokens=100_000), None).answers == EXPECTED_TOKENS
    assert job_of([1, 2], SamplingParams(max_tokens=3), None).answers == 3


BLOCKS = 400
"""Of a replica's cache: what ten prompts need, where each family's common half takes half of it."""


def simulate(affine: bool) -> tuple[int, float]:
    """Tokens found in the caches, and the mean imbalance of work, over conversations on 4 replicas."""
    draw, router, caches = random.Random(1), Router(4), [dict[bytes, None]() for _ in range(4)]
    for replica in range(4):
        router.open(replica, BLOCKS, 100)
    found, uneven, running = 0, 0, list[str]()
    for number in range(2000):
        family = draw.randrange(40)
        work = job(family, 160, number)
        seen = work if affine else Job(work.tokens, work.answers, 1)
        chosen = router.place({str(number): seen}, range(4))
        hits = [digest in caches[chosen] for digest in work.digests]
        found += (hits.index(False) if False in hits else len(hits)) * BLOCK
        for digest in reversed(work.digests):  # the cache itself: least recently used goes first
            caches[chosen].pop(digest, None)
            caches[chosen][digest] = None
        while len(caches[chosen]) > BLOCKS:
            del caches[chosen][next(iter(caches[chosen]))]
        router.computed(str(number - 2))
        running.append(str(number))
        while len(running) > 16:
            router.end(running.pop(draw.randrange(len(running))))
        uneven += max(map(router.load, range(4))) - min(map(router.load, range(4)))
    return found, uneven / 2000


def test_what_prefixes_are_worth() -> None:
    """Against the same rule without prefixes: far more is found in the caches, and the work stays even."""
    (with_prefixes, uneven), (without, even) = simulate(True), simulate(False)
    assert with_prefixes > 1.5 * without
    assert uneven < even + 80, "no replica gets ahead by more than the half that prompts share"


def test_the_end_of_a_long_prompt_is_not_looked_at() -> None:
    assert len(job_of(range(100), SamplingParams(), BLOCK, looked_at=50).digests) == 12
    assert len(job_of(range(100), SamplingParams(), BLOCK).digests) == 25


def test_one_of_none_is_a_mistake() -> None:
    with pytest.raises(ValueError):
        Router(1).place({"a": Job(1, 1)}, [])
