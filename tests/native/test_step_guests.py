"""Guests: threads on cores that other ranks lend. They do what a rank has not begun, each unit once, and end with the
pool."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import MANY, SPIN, new, probe, tasks, wait_for_threads

from weft.native import build
from weft.native.records import LenderRecord

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

NOBODY, IDLE = 0, 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return probe(tmp_path_factory.mktemp("guests"))


class Lenders:
    """Ranks that lend cores, as the region has them."""

    def __init__(self, count: int) -> None:
        self.words = (ctypes.c_uint32 * (2 * count + 1))()
        at, self.count = ctypes.addressof(self.words), count
        cores = sorted(os.sched_getaffinity(0))
        for number in range(count):
            self.words[2 * number] = cores[number % len(cores)] + 1
        self.records = (LenderRecord * count)(*(LenderRecord(at + 8 * i, at + 8 * i + 4) for i in range(count)))
        self.computing = at + 8 * count

    @property
    def standing(self) -> list[int]:
        return list(self.words[1 : 2 * self.count : 2])


@pytest.fixture(params=[(1, 1), (1, 3), (2, 1), (3, 2), (MANY, 1)], ids=str)
def invited(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[tuple[int, int, Lenders]]:
    """(handle, threads, lenders)."""
    threads, count = request.param
    handle, lenders = new(library, threads, SPIN), Lenders(count)
    assert library.weft_pool_invite(handle, lenders.records, count, lenders.computing) == 0
    yield handle, threads, lenders
    library.weft_pool_free(handle)


def guests(
    library: ctypes.CDLL, handle: int, lenders: Lenders, sizes: list[int], rounds: int, first_waits: bool = False
) -> tuple[int, list[int]]:
    """(units that guests did, how often each was done)."""
    done = (ctypes.c_int64 * sum(sizes))()
    given, count = (ctypes.c_int64 * len(sizes))(*sizes), lenders.count
    records, computing = lenders.records, lenders.computing
    found = library.probe_guests(handle, given, done, rounds, int(first_waits), records, count, computing)
    return int(found), list(done)


@pytest.mark.parametrize("size", [0, 1, 2, 9, 100])
def test_every_unit_is_done_once(library: ctypes.CDLL, invited: tuple[int, int, Lenders], size: int) -> None:
    handle, threads, lenders = invited
    for sizes in ([size] * threads, [size + 3 * i for i in range(threads)], [0] * (threads - 1) + [size]):
        found, done = guests(library, handle, lenders, sizes, 60)
        assert done == [60] * sum(sizes)
        assert found >= 0


def test_a_guest_does_what_the_rank_has_not_begun(library: ctypes.CDLL, invited: tuple[int, int, Lenders]) -> None:
    """The first thread keeps the half that it took first until everything else is done."""
    handle, threads, lenders = invited
    found, done = guests(library, handle, lenders, [16] + [0] * (threads - 1), 5, first_waits=True)
    assert done == [5] * 16
    assert found == 5 * 8 if threads == 1 else 0 <= found <= 5 * 8


def test_guests_sleep_until_they_are_called_and_end_with_the_pool(library: ctypes.CDLL) -> None:
    before, lenders = tasks(), Lenders(3)
    handle = new(library, 1, SPIN)
    assert library.weft_pool_invite(handle, lenders.records, 3, lenders.computing) == 0
    threads = [Path(f"/proc/self/task/{task}/stat") for task in tasks() - before]
    assert len(threads) == 3
    for thread in threads:  # the suite's own limit ends a wait for one that spins for ever
        while lenders.standing != [IDLE] * 3 or thread.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
    library.weft_pool_free(handle)
    wait_for_threads(before)
    assert lenders.standing == [NOBODY] * 3


def test_guests_that_were_sent_away_take_nothing(library: ctypes.CDLL) -> None:
    before, lenders = tasks(), Lenders(1)
    handle = new(library, 1, SPIN)
    assert library.weft_pool_invite(handle, lenders.records, 1, lenders.computing) == 0
    library.weft_pool_dismiss(handle)
    wait_for_threads(before)
    assert guests(library, handle, lenders, [16], 5) == (0, [5] * 16)
    library.weft_pool_free(handle)


def test_guests_take_nothing_where_nobody_steals(library: ctypes.CDLL, invited: tuple[int, int, Lenders]) -> None:
    handle, threads, lenders = invited
    library.weft_pool_stealing(handle, 0)
    assert guests(library, handle, lenders, [9] * threads, 20) == (0, [20] * 9 * threads)
