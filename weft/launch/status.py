"""StatusPage: what every rank is doing, in anonymous memory that the supervisor can read after a rank was killed.

One fixed record per rank, written by the rank as it goes. Knows no message and no tensor.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

from weft.launch.phases import Phase

_RECORD = struct.Struct("<BBxxxxxxQQ40s")
RECORD_BYTES = 64


@dataclass(frozen=True, slots=True)
class RankStatus:
    """`step` is the number of steps begun; `busy`: inside the last of them. `collective`: the last one entered."""

    phase: Phase
    busy: bool
    step: int
    collectives: int
    collective: str

    def __str__(self) -> str:
        parts = [f"phase {self.phase}"]
        if self.step:
            parts.append(f"step {self.step}, {'running' if self.busy else 'done'}")
        if self.collectives:
            parts.append(f"last collective {self.collective} (number {self.collectives})")
        return "; ".join(parts)


_ORDER = tuple(Phase)


class StatusPage:
    """`world` records of 64 bytes in a memfd that children inherit."""

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
        phase, busy, step, collectives, name = _RECORD.unpack_from(self._map, rank * RECORD_BYTES)
        text = name.rstrip(b"\0").decode("ascii", "replace")
        return RankStatus(_ORDER[min(phase, len(_ORDER) - 1)], bool(busy), step, collectives, text)

    def writer(self, rank: int) -> StatusWriter:
        """The record of `rank`, for that rank alone."""
        return StatusWriter(self._map, rank)

    def close(self) -> None:
        """Safe to call twice."""
        if self.fd >= 0:
            self._map.close()
            os.close(self.fd)
            self.fd = -1


class StatusWriter:
    """One rank's record."""

    def __init__(self, memory: mmap.mmap, rank: int) -> None:
        self._map = memory
        self._offset = rank * RECORD_BYTES
        self._collectives = 0

    def phase(self, phase: Phase) -> None:
        """Entered `phase`."""
        self._map[self._offset] = _ORDER.index(phase)

    def step(self, number: int, busy: bool) -> None:
        """Begun (`busy`) or ended the step with this number."""
        self._map[self._offset + 1] = busy
        struct.pack_into("<Q", self._map, self._offset + 8, number)

    def collective(self, name: bytes) -> None:
        """Entered the next collective; `name` is ASCII, at most 40 bytes are kept."""
        self._collectives += 1
        struct.pack_into("<Q40s", self._map, self._offset + 16, self._collectives, name)
