"""A waiting rank steals published units of the rank that it waits for, and is no worse off where it does not. No
rank goes on before its thieves are done, and a thief that never finishes is named."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.waiting import PATIENCE_S, until
from weft.comm.shm.region import Region, read_records
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.errors import PeerError
from weft.native.runtime_records import TeamPortRecord

PAIR = (0, 1)
HURRIED = pytest.mark.parametrize("pair", [0.2], indirect=True)
"""With a time limit, in seconds, that a test waits for."""
HELP = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64))


@dataclass
class Pair:
    """Rank 1 waits for rank 0, whose offer it finds at `open`; `helped`: for what it was called, `slow_s` long each.
    `begun`: how many calls have begun."""

    region: Region
    host: SharedMemoryComm
    thief: SharedMemoryComm
    offering: TeamPortRecord
    helped: list[int] = field(default_factory=list)
    slow_s: float = 0.0
    begun: int = 0

    def __post_init__(self) -> None:
        self.open = ctypes.c_uint64.from_address(self.offering.port)
        self.inside = ctypes.c_uint32.from_address(self.offering.thieves + 128 * 1)  # of rank 1
        self.callback = HELP(self._help)
        self.address = ctypes.cast(self.callback, ctypes.c_void_p).value or 0

    def _help(self, offer: int, visit: int, seen: ctypes._Pointer[ctypes.c_uint64]) -> int:
        assert visit - offer == self.offering.thieves + 128 - self.offering.port, "of rank 1"
        self.begun += 1
        time.sleep(self.slow_s)
        seen[0] = what = self.open.value
        self.helped.append(what)  # last: the test may open the next at once
        return 1

    def left(self) -> int:
        """What rank 0's team calls that has closed an instruction."""
        return int(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self.offering.left)(self.offering.comm))

    def has_helped(self, times: int) -> None:
        """Waits for it; the suite's own limit ends it."""
        while len(self.helped) < times:
            os.sched_yield()


@pytest.fixture
def pair(native_comm: None, request: pytest.FixtureRequest) -> Iterator[Pair]:
    region = SharedMemoryComm.create(2, [PAIR])
    host, thief = (SharedMemoryComm(region, rank, timeout=getattr(request, "param", PATIENCE_S)) for rank in PAIR)
    yield Pair(region, host, thief, host.team_port())
    host.close()
    thief.close()
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


def test_a_waiting_rank_helps_once_with_everything_that_is_open(pair: Pair) -> None:
    pair.thief.start_stealing(pair.address)
    for turn in (1, 2, 3):
        waiting = in_background(lambda: pair.thief.barrier(PAIR))
        for what in (2 * turn, 2 * turn + 1):
            pair.open.value = what
            pair.has_helped(len(pair.helped) + 1)
        pair.open.value = 0
        pair.host.barrier(PAIR)
        assert waiting() is None
    assert pair.helped == [2, 3, 4, 5, 6, 7]
    assert pair.host.steal_ns == 0 < pair.thief.steal_ns


@HURRIED
@pytest.mark.parametrize("missing", ["help", "open"])
def test_nothing_is_done_where_something_is_missing(pair: Pair, missing: str) -> None:
    if missing != "help":
        pair.thief.start_stealing(pair.address)
    pair.open.value = int(missing != "open")
    waiting = in_background(lambda: pair.thief.barrier(PAIR))
    assert "rank 0 did not come within 0.2 s" in str(waiting())
    assert pair.helped == []


def test_who_has_come_needs_no_help(pair: Pair) -> None:
    pair.thief.start_stealing(pair.address)
    pair.open.value = 1
    coming = in_background(lambda: pair.host.barrier(PAIR))
    until(lambda: read_records(pair.region.fd)[0].inside)
    time.sleep(0.05)  # it is counted a moment later
    pair.thief.barrier(PAIR)
    assert coming() is None and pair.helped == []


def test_who_comes_while_it_is_still_helped_is_not_missed(pair: Pair) -> None:
    pair.thief.start_stealing(pair.address)
    pair.open.value, pair.slow_s = 1, 0.1
    waiting = in_background(lambda: pair.thief.barrier(PAIR))
    until(lambda: pair.begun)
    pair.host.barrier(PAIR)
    assert waiting() is None and pair.helped == [1]


@HURRIED
def test_the_time_limit_holds_while_a_rank_helps(pair: Pair) -> None:
    pair.thief.start_stealing(pair.address)
    pair.open.value, pair.slow_s = 1, 0.3
    waiting = in_background(lambda: pair.thief.barrier(PAIR))
    assert "rank 0 did not come within 0.2 s" in str(waiting())


def test_a_rank_that_dies_while_it_is_helped_is_named(pair: Pair) -> None:
    pair.thief.start_stealing(pair.address)
    pair.open.value = 1
    waiting = in_background(lambda: pair.thief.barrier(PAIR))
    pair.has_helped(1)
    pair.region.mark_dead(0)
    assert "rank 0 died" in str(waiting())


def test_who_holds_a_helped_rank_up_is_named_by_those_that_wait(native_comm: None) -> None:
    """Rank 1 has stopped in the midst of rank 0's work, which cannot go on; rank 2 waits for rank 0."""
    region = SharedMemoryComm.create(3, [(0, 1, 2), (0, 2)])
    comms = [SharedMemoryComm(region, rank, timeout=0.2) for rank in range(3)]
    ctypes.c_uint32.from_address(comms[0].team_port().thieves + 128 * 1).value = 1
    with pytest.raises(PeerError, match=r"rank 1 did not come within 0.2 s; rank 2 was in barrier over \(0, 2\)"):
        comms[2].barrier((0, 2))
    for comm in comms:
        comm.close()
    region.close()


def test_a_rank_is_helped_also_after_a_long_time_without_work(pair: Pair) -> None:
    """Longer than the other one spins, and than a slice of its sleep."""
    pair.thief.start_stealing(pair.address)
    waiting = in_background(lambda: pair.thief.barrier(PAIR))
    for what in (1, 2, 3):
        time.sleep(0.03)
        pair.open.value = what
        pair.has_helped(what)
        pair.open.value = 0
    pair.host.barrier(PAIR)
    assert waiting() is None and pair.helped == [1, 2, 3]


def test_nobody_goes_on_before_its_helper_is_done(pair: Pair) -> None:
    pair.inside.value = 1
    leaving, codes = threading.Thread(target=lambda: codes.append(pair.left())), list[int]()
    leaving.start()
    time.sleep(0.05)
    assert codes == []
    pair.inside.value = 0
    leaving.join()
    assert codes == [0]


@HURRIED
@pytest.mark.parametrize(("dies", "said"), [(True, "rank 1 died"), (False, "rank 1 did not come within 0.2 s")])
def test_a_helper_that_is_never_done_is_named(pair: Pair, dies: bool, said: str) -> None:
    """Stopped, or dead, in the midst of what it has taken: the step cannot be ended."""
    pair.inside.value = 1
    if dies:
        pair.region.mark_dead(1)
    code = pair.left()
    with pytest.raises(PeerError, match=f"{said}; rank 0 was in all_reduce over"):
        pair.host.fail(code, "all_reduce", PAIR)
