"""StatusPage: what every rank is doing, in anonymous memory that the supervisor can read after a rank was killed.

One fixed record per rank, written by the rank as it goes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from weft.compute.comm.shm.region import CollectiveKind, RankRecord, State
from weft.parallel.layout.ranks import Group
from weft.runtime.ipc.phases import Phase

_RECORD = struct.Struct("<BBBBIQQQ")  # phase, busy, kind, inside, group, step, calls, since_ns
_STEP_AT = 8
AGE_AT = 24
"""Of since_ns, in a record."""
_COLLECTIVE = struct.Struct("<BBI")
_COLLECTIVE_AT = 2
_CALLS = struct.Struct("<QQ")
_CALLS_AT = 16
_WORK = struct.Struct("<QQQQ")  # busy ns, rows, collectives' ns, bytes received
_WORK_AT = 32
_HELD = struct.Struct("<QQ")  # bytes of weights, KV cache
_HELD_AT = 64
_STAGE_WAIT = struct.Struct("<Q")  # ns of waiting for other pipeline stages
_STAGE_WAIT_AT = 80
RECORD_BYTES = 128


@dataclass(frozen=True, slots=True)
class RankStatus:
    """`step` is the number of steps begun; `busy`: inside the last of them."""

    phase: Phase
    busy: bool
    step: int

    def __str__(self) -> str:
        if self.phase is not Phase.READY:
            return f"phase {self.phase}"
        return f"phase serving, {'in step' if self.busy else 'after step'} {self.step}"


_ORDER = tuple(Phase)


@dataclass(frozen=True, slots=True)
class RankWork:
    """What a rank has done since it was ready: seconds in steps, rows of its own, seconds in collectives (part of the
    former), bytes received in them, and seconds in messages of other pipeline stages."""

    busy_s: float
    rows: int
    collective_s: float
    collective_bytes: int
    stage_wait_s: float = 0.0

    @property
    def stage_idle(self) -> float:
        """Share of the time in steps in which it waited for other pipeline stages."""
        return round(self.stage_wait_s / self.busy_s, 4) if self.busy_s else 0.0


@dataclass(frozen=True, slots=True)
class RankHeld:
    """Bytes that a rank holds, once it has loaded: of weights and of the KV cache."""

    weights: int = 0
    kv_cache: int = 0


class StatusPage:
    """`world` records in a memfd that children inherit."""

    def __init__(self, fd: int, world: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, world * RECORD_BYTES)

    @classmethod
    def create(cls, world: int) -> StatusPage:
        """A fresh page; all ranks in the first phase."""
        fd = os.memfd_create("weft-status", os.MFD_CLOEXEC)
        os.ftruncate(fd, world * RECORD_BYTES)
        return cls(fd, world)

    def read(self, rank: int) -> RankStatus:
        """A torn record is possible and harmless: it is shown to people, never decided on."""
        phase, busy, _, _, _, step, _, _ = _RECORD.unpack_from(self._map, rank * RECORD_BYTES)
        return RankStatus(_ORDER[min(phase, len(_ORDER) - 1)], bool(busy), step)

    def work(self, rank: int) -> RankWork:
        """What `rank` has done; nothing once the page is closed."""
        if self.fd < 0:
            return RankWork(0.0, 0, 0.0, 0)
        busy, rows, collective, received = _WORK.unpack_from(self._map, rank * RECORD_BYTES + _WORK_AT)
        (waited,) = _STAGE_WAIT.unpack_from(self._map, rank * RECORD_BYTES + _STAGE_WAIT_AT)
        return RankWork(busy / 1e9, rows, collective / 1e9, received, waited / 1e9)

    def held(self, rank: int) -> RankHeld:
        """What `rank` holds; nothing before it is warm, and once the page is closed."""
        return RankHeld() if self.fd < 0 else RankHeld(*_HELD.unpack_from(self._map, rank * RECORD_BYTES + _HELD_AT))

    def collective(self, rank: int, groups: Sequence[Group]) -> RankRecord | None:
        """What `rank` was last in, where it writes that here."""
        _, _, kind, inside, group, _, calls, since = _RECORD.unpack_from(self._map, rank * RECORD_BYTES)
        if not calls or group >= len(groups):
            return None
        seconds = (time.monotonic_ns() - since) / 1e9
        return RankRecord(rank, State.ALIVE, 0, CollectiveKind(kind), groups[group], calls, 0, bool(inside), seconds)

    def writer(self, rank: int) -> StatusWriter:
        """The record of `rank`, for that rank alone."""
        return StatusWriter(self._map, rank)

    def take(self, rank: int, record: bytes) -> None:
        """Writes what another host's page has of `rank`, as of `aged`; nothing once the page is closed."""
        if self.fd >= 0 and len(record) == RECORD_BYTES:
            *rest, age = _RECORD.unpack_from(record)
            self._map[rank * RECORD_BYTES : (rank + 1) * RECORD_BYTES] = record
            _RECORD.pack_into(self._map, rank * RECORD_BYTES, *rest, max(0, time.monotonic_ns() - age))

    def aged(self, rank: int) -> bytes:
        """The record of `rank` for another host, whose clock is another: the time when it entered the collective is an
        age, in nanoseconds."""
        record = bytearray(self._map[rank * RECORD_BYTES : (rank + 1) * RECORD_BYTES])
        *rest, since = _RECORD.unpack_from(record)
        _RECORD.pack_into(record, 0, *rest, time.monotonic_ns() - since if since else 0)
        return bytes(record)

    def close(self) -> None:
        """Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._map.close()
            os.close(fd)


class StatusWriter:
    """One rank's record."""

    def __init__(self, memory: mmap.mmap, rank: int) -> None:
        self._map = memory
        self._offset = rank * RECORD_BYTES

    @property
    def address(self) -> int:
        """Of the record, for C++ to write; the page stays mapped from then on."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map, self._offset))

    def phase(self, phase: Phase) -> None:
        """Entered `phase`."""
        self._map[self._offset] = _ORDER.index(phase)

    def step(self, number: int, busy: bool) -> None:
        """Begun (`busy`) or ended the step with this number."""
        self._map[self._offset + 1] = busy
        struct.pack_into("<Q", self._map, self._offset + _STEP_AT, number)

    def work(self, busy_ns: int, rows: int, collective_ns: int, received: int, stage_wait_ns: int = 0) -> None:
        """All that it has done so far."""
        _WORK.pack_into(self._map, self._offset + _WORK_AT, busy_ns, rows, collective_ns, received)
        _STAGE_WAIT.pack_into(self._map, self._offset + _STAGE_WAIT_AT, stage_wait_ns)

    def held(self, weights: int, kv_cache: int) -> None:
        """What it holds, in bytes."""
        _HELD.pack_into(self._map, self._offset + _HELD_AT, weights, kv_cache)

    def collective(self, kind: CollectiveKind, group: int, calls: int) -> None:
        """Entered this rank's `calls`-th collective over the `group`-th group."""
        _CALLS.pack_into(self._map, self._offset + _CALLS_AT, calls, time.monotonic_ns())
        _COLLECTIVE.pack_into(self._map, self._offset + _COLLECTIVE_AT, kind, True, group)

    def left(self) -> None:
        """Returned from it."""
        self._map[self._offset + _COLLECTIVE_AT + 1] = False
