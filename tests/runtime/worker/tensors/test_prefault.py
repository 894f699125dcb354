"""Pages of the cache that come ahead of the steps that write them: how far, and that nothing else changes."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from mmap import PAGESIZE

import pytest
import torch
from torch import Tensor

from tests.support.native_libraries import need
from tests.support.waiting import until
from weft.compute.native.step_library import Awaited, open_library
from weft.compute.ops.native.large_pages import large_pages
from weft.runtime.worker.tensors import prefault
from weft.runtime.worker.tensors.prefault import (
    AHEAD_BLOCKS,
    AT_ONCE_BYTES,
    BESIDE_BYTES,
    MOST_BYTES,
    RARELY_S,
    SELDOM_S,
    SOON_S,
    Prefault,
)

BLOCK = 100 * PAGESIZE


def resident(memory: Tensor) -> int:
    """Bytes of it that lie in memory: mincore(2)."""
    pages = (ctypes.c_ubyte * -(-len(memory) // PAGESIZE))()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    assert not mincore(ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(len(memory)), pages), ctypes.get_errno()
    return PAGESIZE * sum(page & 1 for page in pages)


def quiet() -> tuple[int, bool]:
    return 1, False


def drained(writes: Prefault, ahead: int) -> int:
    while writes.advance(ahead):
        pass
    return writes.ready


def test_pages_come_a_little_beyond_the_highest_block() -> None:
    memory, last = large_pages(96 << 20), [0]
    writes = Prefault(memory, BLOCK, 8, lambda: last[0], quiet)
    assert resident(memory) < 4 << 20
    assert drained(writes, 8 << 20) == BLOCK + (8 << 20)
    assert writes.ready <= resident(memory) < writes.ready + (4 << 20)
    assert not writes.advance(8 << 20)
    last[0] = 99
    assert writes.advance(8 << 20) and writes.ready == BLOCK + (8 << 20) + AT_ONCE_BYTES
    assert drained(writes, 8 << 20) == 100 * BLOCK + (8 << 20)
    last[0] = 10_000
    assert drained(writes, 0) == len(memory)


def test_blocks_need_not_end_with_a_page() -> None:
    memory, last = large_pages(40_000), [0]
    writes = Prefault(memory, 1_000, 8, lambda: last[0], quiet)
    for last[0] in range(40):
        drained(writes, 0)
        assert 1_000 * (last[0] + 1) <= writes.ready < 1_000 * (last[0] + 1) + PAGESIZE


def test_what_is_written_already_stays() -> None:
    memory = large_pages(8 << 20)
    memory[: 1 << 20], memory[5 << 20] = 7, 9
    assert drained(Prefault(memory, BLOCK, 8, lambda: 0, quiet), 64 << 20) == len(memory)
    assert (memory[: 1 << 20] == 7).all() and memory[5 << 20] == 9 and memory.sum(dtype=torch.int64) == (7 << 20) + 9


def test_a_system_without_such_requests_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    writes, asked = Prefault(large_pages(8 << 20), BLOCK, 8, lambda: 0, quiet), list[int]()

    def refused(*_: object) -> int:
        asked.append(1)
        return errno.EINVAL

    monkeypatch.setattr(writes._system, "populate", refused)
    writes.start()
    until(lambda: not writes._thread.is_alive())
    assert len(asked) == 1 and writes.done and writes.ready == 0
    writes.close()


def test_ranks_that_share_blocks_ask_together_for_as_much_as_one() -> None:
    memory = large_pages(PAGESIZE)
    alone, shared = (Prefault(memory, BLOCK, 1000, lambda: 0, quiet, sharing=ranks) for ranks in (1, 4))
    assert alone.ahead == MOST_BYTES == 4 * shared.ahead
    assert alone.beside == BESIDE_BYTES == 4 * shared.beside


def test_without_memory_now_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Prefault(large_pages(8 << 20), BLOCK, 8, lambda: 0, quiet)
    with monkeypatch.context() as short:
        short.setattr(writes._system, "populate", lambda *_: errno.ENOMEM)
        assert not writes.advance(4 << 20) and writes.ready == 0
    assert writes.advance(4 << 20) and writes.ready == AT_ONCE_BYTES


@pytest.mark.parametrize(("slots", "blocks"), [(2, 2 * AHEAD_BLOCKS), (1000, None)], ids=["few slots", "many"])
@pytest.mark.parametrize("busy", [False, True], ids=["between steps", "beside steps"])
def test_most_comes_while_nothing_else_is_to_be_done(busy: bool, slots: int, blocks: int | None) -> None:
    memory, begun = large_pages(MOST_BYTES + (8 << 20)), [0]
    ahead = MOST_BYTES if blocks is None else blocks * BLOCK
    wanted = BLOCK + min(ahead, BESIDE_BYTES if busy else ahead)

    def steps() -> tuple[int, bool]:
        begun[0] += busy
        return begun[0], False

    writes = Prefault(memory, BLOCK, slots, lambda: 0, steps)
    writes.start()
    try:
        until(lambda: writes.ready >= wanted)
        time.sleep(0.1)
        assert writes.ready == wanted
    finally:
        writes.close()
    assert not writes._thread.is_alive()


def test_beside_steps_more_comes_once_a_block_is_taken_without_a_look_of_pythons() -> None:
    need("step")
    memory, highest, begun, looks = large_pages(BESIDE_BYTES + (16 << 20)), ctypes.c_int64(0), [0], [0]
    library = open_library()
    assert library is not None
    awaited = Awaited(library, ctypes.addressof(highest))

    def steps() -> tuple[int, bool]:
        begun[0] += 1
        return begun[0], False

    def looked() -> int:
        looks[0] += 1
        return highest.value

    writes = Prefault(memory, BLOCK, 1000, looked, steps, awaited=awaited)
    writes.start()
    try:
        until(lambda: writes.ready == BLOCK + BESIDE_BYTES)
        time.sleep(0.1)
        before, began = looks[0], time.monotonic()
        time.sleep(3 * RARELY_S)
        assert looks[0] - before <= 3 * (1 + (time.monotonic() - began) / SELDOM_S)
        highest.value = 4
        until(lambda: writes.ready == 5 * BLOCK + BESIDE_BYTES)
    finally:
        writes.close()
    assert not writes._thread.is_alive()


def test_where_all_was_there_a_higher_block_is_heard_of_between_steps_too() -> None:
    need("step")
    memory, highest = large_pages(MOST_BYTES + (8 << 20)), ctypes.c_int64(0)
    library = open_library()
    assert library is not None
    awaited = Awaited(library, ctypes.addressof(highest))
    writes = Prefault(memory, BLOCK, 1000, lambda: highest.value, quiet, awaited=awaited)
    writes.start()
    try:
        until(lambda: writes.ready == BLOCK + MOST_BYTES)
        time.sleep(0.1)
        highest.value = 4  # what is wanted beside steps is there
        until(lambda: writes.ready == 5 * BLOCK + MOST_BYTES)
    finally:
        writes.close()


def test_the_less_is_there_the_sooner_more_is_asked_for_beside_steps() -> None:
    highest = [0]
    writes = Prefault(large_pages(8 << 20), BLOCK, 8, lambda: highest[0], quiet)
    writes.beside = 4 * BLOCK
    writes.ready = BLOCK + writes.beside
    assert writes._pause_s() == SOON_S
    highest[0] = 2
    assert writes._pause_s() == SOON_S / 2
    highest[0] = 100  # steps wait for pages themselves
    assert writes._pause_s() == 0


def test_steps_after_a_rest_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefault, "LOOKS", 2)
    now = [(1, False)]
    writes = Prefault(large_pages(64 << 20), BLOCK, 1, lambda: now[0][0], lambda: now[0])
    writes.start()
    try:
        rests = 3 * BLOCK // 2 + writes.ahead
        until(lambda: writes.ready > rests)
        time.sleep(0.1)
        now[0] = (100, True)
        until(lambda: writes.ready > 100 * BLOCK)
    finally:
        writes.close()


def test_it_keeps_to_the_cpus_it_was_given() -> None:
    free = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def steps() -> tuple[int, bool]:
        seen.append(os.sched_getaffinity(0))
        return 1, False

    os.sched_setaffinity(0, {min(free)})
    try:
        for cpus in (free, ()):
            seen.clear()
            writes = Prefault(large_pages(8 << 20), BLOCK, 1, lambda: 0, steps, cpus)
            writes.start()
            until(lambda: bool(seen))
            writes.close()
            assert seen[0] == (set(cpus) or {min(free)})
    finally:
        os.sched_setaffinity(0, free)


def test_one_that_was_never_started_can_be_closed() -> None:
    Prefault(large_pages(PAGESIZE), BLOCK, 8, lambda: 0, quiet).close()
