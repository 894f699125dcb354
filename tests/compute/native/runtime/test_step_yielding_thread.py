"""The last thread of a pool yields its core: whether and when it joins, each unit is done once before others go on."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator

import pytest

from tests.compute.native.pools import MANY, SPIN, new, probe, tasks, wait_for_threads
from weft.compute.native import build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

NEVER, ABSENT = -1, -1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return probe(tmp_path_factory.mktemp("latecomer"))


@pytest.fixture(params=[(1, SPIN), (2, SPIN), (2, 0), (3, SPIN), (MANY, 0), (MANY, SPIN)], ids=str)
def pool(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """(handle, threads), of which the last one yields its core."""
    threads, spin = request.param
    handle = new(library, threads, spin)
    library.weft_pool_yield_core(handle, 1)
    yield handle, threads
    library.weft_pool_free(handle)


def job(
    library: ctypes.CDLL,
    pool: tuple[int, int],
    rounds: int,
    waits_at: int = NEVER,
    units: int = 9,
    if_away: bool = False,
) -> tuple[int, list[int]]:
    """(units that were not done once in time, with which instruction each thread began). `if_away`: the last thread may
    come late only if it still is."""
    handle, threads = pool
    done, first = (ctypes.c_int64 * max(1, rounds * units))(), (ctypes.c_int64 * threads)(*[ABSENT] * threads)
    wrong = library.probe_late(handle, units, rounds, waits_at, done, first, if_away)
    assert list(done)[: rounds * units] == [1] * rounds * units
    return int(wrong), list(first)


def turns(library: ctypes.CDLL, pool: tuple[int, int], rounds: int) -> list[int]:
    """How often each thread came; a job that no thread may join late."""
    handle, threads = pool
    cells = (ctypes.c_int64 * threads)()
    assert library.probe_turns(handle, cells, rounds) == 0
    return list(cells)


def test_a_long_job_awaits_it_but_for_one_that_is_still_away(library: ctypes.CDLL, pool: tuple[int, int]) -> None:
    _, threads = pool
    for _ in range(20):
        assert job(library, pool, 5, if_away=True) == (0, [0] * threads)
        assert job(library, pool, 0)[1][-1] == (ABSENT if threads > 1 else 0)
        wrong, first = job(library, pool, 5, 2, if_away=True)
        assert wrong == 0
        assert 0 < first[-1] <= 3 if threads > 1 else first == [0]


@pytest.mark.parametrize("waits_at", [0, 3, 9])
def test_who_comes_late_is_there_from_then_on(library: ctypes.CDLL, pool: tuple[int, int], waits_at: int) -> None:
    """Thread 0 waits for it at an instruction, the last one too: after that it works with the others."""
    _, threads = pool
    wrong, first = job(library, pool, 10, waits_at)
    assert wrong == 0
    assert first[:-1] == [0] * (threads - 1)
    assert 0 < first[-1] <= waits_at + 1 if threads > 1 else first == [0]
    assert turns(library, pool, 20) == [20] * threads


def test_the_others_do_not_wait_for_who_does_not_come(library: ctypes.CDLL, pool: tuple[int, int]) -> None:
    """A job without an instruction lets no thread in; in the next one, which allows no late join, it is missing too."""
    _, threads = pool
    for _ in range(50):
        assert job(library, pool, 0) == (0, [0] if threads == 1 else [0] * (threads - 1) + [ABSENT])
        assert turns(library, pool, 3) == ([3] if threads == 1 else [3] * (threads - 1) + [0])
    wrong, first = job(library, pool, 2, 0)
    assert wrong == 0 and first[-1] == (threads > 1)
    assert turns(library, pool, 3) == [3] * threads


def test_jobs_of_all_kinds_one_after_the_other(library: ctypes.CDLL, pool: tuple[int, int]) -> None:
    chance, (handle, threads) = random.Random(7), pool
    here = True
    for _ in range(300):
        rounds = chance.choice([0, 1, 2, 5, 40])
        if chance.random() < 0.3:
            assert turns(library, pool, rounds) == [rounds] * (threads - 1) + [rounds * here]
            continue
        yields_core = chance.random() < 0.8
        library.weft_pool_yield_core(handle, yields_core)
        wrong, first = job(
            library, pool, rounds, chance.choice([NEVER, rounds // 2]), chance.choice([0, 1, 30]), chance.random() < 0.3
        )
        assert wrong == 0 and first[:-1] == [0] * (threads - 1)
        here = first[-1] != ABSENT or threads == 1
    library.weft_pool_yield_core(handle, 0)


def test_it_is_awaited_where_it_does_not_yield(library: ctypes.CDLL) -> None:
    handle = new(library, 3, SPIN)
    for _ in range(50):
        assert job(library, (handle, 3), 4) == (0, [0, 0, 0])
    library.weft_pool_free(handle)


def test_a_pool_ends_while_its_last_thread_is_away(library: ctypes.CDLL) -> None:
    for spin in (0, SPIN):
        before = tasks()
        handle = new(library, 2, spin)
        library.weft_pool_yield_core(handle, 1)
        assert job(library, (handle, 2), 0)[1][-1] == ABSENT
        library.weft_pool_free(handle)
        wait_for_threads(before)
