"""A rank that waits lends its core to a rank that computes, and is no worse off where that one never gives it back."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from weft.comm.region import Region
from weft.comm.shared_memory import SharedMemoryComm
from weft.errors import PeerError

PAIR = (0, 1)
NOBODY, IDLE = range(2)
STEP = 7  # what the host computes


@dataclass(frozen=True)
class Pair:
    """Rank 1 waits for rank 0; `guest`: how rank 0's guest on rank 1's core stands."""

    region: Region
    host: SharedMemoryComm
    lender: SharedMemoryComm
    guest: ctypes.c_uint32
    computing: ctypes.c_uint32

    def reached(self, standing: int) -> None:
        """Waits until the guest stands so; the suite's own limit ends it."""
        while self.guest.value != standing:
            os.sched_yield()


@pytest.fixture
def pair(native_comm: None) -> Iterator[Pair]:
    region = SharedMemoryComm.create(2, [PAIR])
    host, lender = (SharedMemoryComm(region, rank, timeout=0.2) for rank in PAIR)
    lenders, computing = host.lenders()
    assert len(lenders) == 1
    words = (ctypes.c_uint32.from_address(at) for at in (int(lenders[0].guest or 0), computing))
    yield Pair(region, host, lender, *words)
    host.close()
    lender.close()
    region.close()


def in_background(call: Callable[[], None]) -> Callable[[], Exception | None]:
    """Runs the call on a thread; what it raised, once it has ended."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except PeerError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def ended() -> Exception | None:
        thread.join()
        return raised[0] if raised else None

    return ended


def test_a_waiting_rank_lends_its_core_until_the_guest_gives_it_back(pair: Pair) -> None:
    pair.lender.lend(0)
    pair.guest.value, pair.computing.value = IDLE, STEP
    for _ in range(3):
        waiting = in_background(lambda: pair.lender.barrier(PAIR))
        pair.reached(STEP)
        pair.computing.value, pair.guest.value = STEP + 1, IDLE
        pair.host.barrier(PAIR)
        assert waiting() is None
        pair.computing.value = STEP
    assert pair.guest.value == IDLE
    assert pair.host.lent_ns == 0 < pair.lender.lent_ns


@pytest.mark.parametrize("missing", ["core", "computing", "guest"])
def test_nothing_is_lent_where_something_is_missing(pair: Pair, missing: str) -> None:
    """A guest that is called stays so here, for there is none to answer."""
    if missing != "core":
        pair.lender.lend(0)
    pair.guest.value = NOBODY if missing == "guest" else IDLE
    pair.computing.value = STEP + int(missing == "computing")
    waiting = in_background(lambda: pair.lender.barrier(PAIR))
    error = waiting()
    assert "rank 0 did not come within 0.2 s" in str(error)
    assert pair.guest.value == (NOBODY if missing == "guest" else IDLE)


def test_who_comes_while_its_guest_is_still_there_is_not_missed(pair: Pair) -> None:
    pair.lender.lend(0)
    pair.guest.value, pair.computing.value = IDLE, STEP
    waiting = in_background(lambda: pair.lender.barrier(PAIR))
    pair.reached(STEP)
    pair.host.barrier(PAIR)
    assert waiting() is None


def test_the_time_limit_holds_while_a_core_is_lent(pair: Pair) -> None:
    pair.lender.lend(0)
    pair.guest.value, pair.computing.value = IDLE, STEP
    waiting = in_background(lambda: pair.lender.barrier(PAIR))
    assert "rank 0 did not come within 0.2 s" in str(waiting())
    assert pair.guest.value == STEP


def test_a_rank_that_dies_with_a_lent_core_is_named(pair: Pair) -> None:
    pair.lender.lend(0)
    pair.guest.value, pair.computing.value = IDLE, STEP
    waiting = in_background(lambda: pair.lender.barrier(PAIR))
    pair.reached(STEP)
    pair.region.mark_dead(0)
    assert "rank 0 died" in str(waiting())
