"""The thread pool: every thread takes part, barriers hold, nothing is busy while idle, it ends with its owner; units of
work are each done once, by a free thread."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compute.native.pools import MANY, SPIN, new, probe, tasks, wait_for_threads
from weft.compute.native import build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return probe(tmp_path_factory.mktemp("pool"))


@pytest.fixture(params=[(1, SPIN), (2, SPIN), (3, 0), (8, SPIN), (MANY, 0), (MANY, SPIN)], ids=str)
def pool(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """(handle, threads)."""
    threads, spin = request.param
    handle = new(library, threads, spin)
    yield handle, threads
    library.weft_pool_free(handle)


def turns(library: ctypes.CDLL, handle: int, threads: int, rounds: int) -> tuple[int, list[int]]:
    cells = (ctypes.c_int64 * threads)()
    return int(library.probe_turns(handle, cells, rounds)), list(cells)


def test_every_thread_takes_part_and_barriers_hold(library: ctypes.CDLL, pool: tuple[int, int]) -> None:
    handle, threads = pool
    for rounds in (1, 0, 2, 300):
        assert turns(library, handle, threads, rounds) == (0, [rounds] * threads)


def shares(
    library: ctypes.CDLL, handle: int, sizes: list[int], rounds: int, first_waits: bool = False
) -> tuple[int, list[int]]:
    """(units that were done by a thread that did not own them, how often each was done)."""
    done = (ctypes.c_int64 * sum(sizes))()
    given = (ctypes.c_int64 * len(sizes))(*sizes)
    return int(library.probe_shares(handle, given, done, rounds, int(first_waits))), list(done)


@pytest.mark.parametrize("size", [0, 1, 2, 9, 100])
def test_every_unit_is_done_once(library: ctypes.CDLL, pool: tuple[int, int], size: int) -> None:
    handle, threads = pool
    for sizes in ([size] * threads, [size + 3 * i for i in range(threads)], [0] * (threads - 1) + [size]):
        assert shares(library, handle, sizes, 50)[1] == [50] * sum(sizes)


@pytest.mark.parametrize("threads", [2, 3, MANY])
def test_what_a_thread_has_not_begun_others_do(library: ctypes.CDLL, threads: int) -> None:
    """The first one keeps the half that it took first until everything else is done."""
    handle = new(library, threads, SPIN)
    found, done = shares(library, handle, [16] * threads, 1, first_waits=True)
    assert done == [1] * 16 * threads
    assert found >= 8
    library.weft_pool_free(handle)


def test_nobody_steals_where_it_is_switched_off(library: ctypes.CDLL, pool: tuple[int, int]) -> None:
    handle, threads = pool
    library.weft_pool_stealing(handle, 0)
    sizes = [0, *(5 * thread for thread in range(1, threads))]
    assert shares(library, handle, sizes, 50) == (0, [50] * sum(sizes))
    library.weft_pool_stealing(handle, 1)
    assert shares(library, handle, sizes, 50)[1] == [50] * sum(sizes)


def test_too_many_units_to_count_are_each_thread_s_own(library: ctypes.CDLL) -> None:
    handle = new(library, 2, SPIN)
    assert shares(library, handle, [1 << 20, 5], 1) == (0, [1] * ((1 << 20) + 5))
    library.weft_pool_free(handle)


def test_the_spin_can_change(library: ctypes.CDLL, pool: tuple[int, int]) -> None:
    handle, threads = pool
    for spin in (0, 1000, 200_000, 0):
        library.weft_pool_spin(handle, spin)
        assert turns(library, handle, threads, 20) == (0, [20] * threads)


def test_two_pools_at_once(library: ctypes.CDLL) -> None:
    handles = [new(library, 3, SPIN), new(library, 4, 0)]
    found: list[tuple[int, list[int]]] = [(-1, [])] * 2

    def use(index: int, threads: int) -> None:
        found[index] = turns(library, handles[index], threads, 500)

    users = [threading.Thread(target=use, args=(index, threads)) for index, threads in enumerate((3, 4))]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert found == [(0, [500] * 3), (0, [500] * 4)]
    for handle in handles:
        library.weft_pool_free(handle)


def test_idle_threads_sleep(library: ctypes.CDLL) -> None:
    others = tasks()
    handle = new(library, 4, SPIN)
    turns(library, handle, 4, 10)
    workers = [Path(f"/proc/self/task/{task}/stat") for task in tasks() - others]
    assert len(workers) == 3
    for worker in workers:  # the suite's own limit ends a wait for a worker that spins for ever
        while worker.read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
    library.weft_pool_free(handle)


def test_threads_end_with_the_pool(library: ctypes.CDLL) -> None:
    before = tasks()
    handle = new(library, 5, SPIN)
    assert len(tasks() - before) == 4
    library.weft_pool_free(handle)
    wait_for_threads(before)


def test_threads_stay_on_their_cores(library: ctypes.CDLL) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    wanted = [allowed[-1], allowed[0], allowed[-1]]
    found = (ctypes.c_int64 * 3)()

    def use() -> None:  # a thread of its own: the caller is pinned too
        handle = new(library, 3, SPIN, wanted)
        library.probe_cores(handle, found)
        library.weft_pool_free(handle)

    user = threading.Thread(target=use)
    user.start()
    user.join()
    assert list(found) == wanted
    assert sorted(os.sched_getaffinity(0)) == allowed


@pytest.mark.parametrize("cores", [[0, 100_000], [0, -1]])
def test_a_core_that_is_not_there_is_an_error_and_leaves_no_thread(library: ctypes.CDLL, cores: list[int]) -> None:
    before = tasks()
    codes: list[int | None] = []

    def use() -> None:
        try:
            new(library, 2, SPIN, [sorted(os.sched_getaffinity(0))[0], cores[1]])
        except OSError as error:
            codes.append(error.errno)

    user = threading.Thread(target=use)
    user.start()
    user.join()
    assert codes == [errno.EINVAL]
    wait_for_threads(before)


def test_a_forked_child_runs_alone(library: ctypes.CDLL) -> None:
    """The workers are not copied: the child must neither wait for them nor join them."""
    handle = new(library, 3, SPIN)
    child = os.fork()
    if child == 0:
        right = turns(library, handle, 3, 5) == (0, [5, 0, 0])
        library.weft_pool_free(handle)
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert turns(library, handle, 3, 5) == (0, [5, 5, 5])
    library.weft_pool_free(handle)
