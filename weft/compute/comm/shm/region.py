"""The memory that the ranks of one machine share: laid out, handed over by file descriptor, read by a supervisor.

Needs neither torch nor the C++ library; `weft/compute/native/runtime/comm/region.h` mirrors the records here. Nameless
(memfd): it is gone with the last process that holds it, whatever ended that process.

    header | state of each rank | record of each rank | group table | per group: members, counter, heads, counts, texts
    | per group: two slots of `piece` bytes per member | per pair of ranks of two pipeline stages: its mailboxes
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from weft.base.errors import ConfigError
from weft.compute.comm.mailboxes import NO_MAILBOXES, Mailboxes
from weft.compute.comm.shm.region_plan import GROUP, HEADER, LINE, MAGIC, PAGE, RECORD, STATE, RegionPlan
from weft.parallel.layout.ranks import Group

PIECE_BYTES = 256 << 10
SPIN_US = 300
MAX_MEMBERS = 256


class CollectiveKind(IntEnum):
    """Collectives, as the region's records number them."""

    NONE = 0
    ALL_REDUCE = 1
    ALL_GATHER = 2
    REDUCE_SCATTER = 3
    ALL_TO_ALL = 4
    BARRIER = 5
    SEND = 6
    RECV = 7


class State(IntEnum):
    """How a rank stands. `GAVE_UP`: its last collective failed, because of another rank. `CLOSED`: it left in order."""

    ALIVE = 0
    DEAD = 1
    GAVE_UP = 2
    CLOSED = 3


@dataclass(frozen=True, slots=True)
class RankRecord:
    """The collective that a rank was last in: its `call`-th over `group`; `inside` until it returned from it.

    `seconds`: since it entered. A rank that runs on while this is read may show fields of two neighbouring calls.
    """

    rank: int
    state: State
    pid: int
    kind: CollectiveKind
    group: Group
    call: int
    bytes: int
    inside: bool
    seconds: float

    def __str__(self) -> str:
        if self.kind is CollectiveKind.NONE:
            return f"rank {self.rank} has entered no collective"
        verb = f"has been for {self.seconds:.1f} s in" if self.inside else "has left"
        return f"rank {self.rank} {verb} {self.kind.name.lower()} over {self.group}, call {self.call}"


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """The settings of a region, as `Region.create` takes them."""

    world: int
    groups: tuple[Group, ...]
    piece_bytes: int
    spin_us: int
    debug: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A memfd and its size: all that another process needs. The holder of `fd` closes it (`close`)."""

    fd: int
    size: int

    @staticmethod
    def of_fd(fd: int) -> Region:
        """The region that another process created."""
        with mmap.mmap(fd, PAGE, prot=mmap.PROT_READ) as memory:
            return Region(fd, _header(memory).size)

    @staticmethod
    def create(
        world: int,
        groups: Sequence[Group],
        *,
        piece_bytes: int = PIECE_BYTES,
        spin_us: int | None = None,
        debug: bool = False,
        host_of: Sequence[int] | None = None,
        host: int | None = None,
        mailboxes: Mailboxes = NO_MAILBOXES,
    ) -> Region:
        """A region for these groups, its memory taken at once; ConfigError where the machine has not that much.

        `host_of`: the host of each rank, where there are several. Groups that span hosts get no slots here: their
        members are connected (`SharedMemoryComm.connect`). `host`: the one that this region is on.

        `mailboxes`: of pairs of ranks, which must be among the groups; such a group has no slots. There is memory for
        messages to ranks of `host`, or of all.

        `piece_bytes`: what a rank hands over in one round. `spin_us`: how long a rank spins before it sleeps; by
        default 300, and 0 with more ranks than cores, where spinning takes the core that another rank needs. `debug`:
        ranks compare shapes ahead of each collective, not only kind, dtype, order and size.
        """
        if spin_us is None:
            spin_us = SPIN_US if world <= len(os.sched_getaffinity(0)) else 0
        most = max((len(group) for group in groups), default=0)
        if most > MAX_MEMBERS:
            message = f"comm shared_memory: a group of {most} ranks; at most {MAX_MEMBERS} share memory"
            raise ConfigError(message, field="comm", value="shared_memory", legal=("gloo",))
        piece = -(-max(piece_bytes, most * LINE) // PAGE) * PAGE  # a line for each member at least
        spans = [host_of is not None and len({host_of[rank] for rank in group}) > 1 for group in groups]
        here = [rank for rank in range(world) if host is None or host_of is None or host_of[rank] == host]
        plan = RegionPlan(world, groups, piece, spans, mailboxes, here)
        _check_memory(plan.size, world)
        fd = os.memfd_create("weft-comm", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, plan.size)
            with mmap.mmap(fd, plan.size) as memory:
                plan.write(memory, spin_us, debug)
        except OSError as error:
            os.close(fd)
            raise _too_large(plan.size, world, str(error.strerror)) from error
        return Region(fd, plan.size)

    def mark_dead(self, rank: int) -> None:
        """Ends, with this rank's name, every wait of the other ranks, now and later.

        A rank that had given up keeps that state: it blames the rank that was the cause, and ends waits as well.
        """
        with self._mapped() as memory:
            at = _header(memory).states + STATE.size * rank
            if _read_state(memory, at) is not State.GAVE_UP:
                STATE.pack_into(memory, at, State.DEAD)

    def info(self) -> RegionInfo:
        """What the region was created for."""
        with self._mapped() as memory:
            header = _header(memory)
            groups = _read_groups(memory, header)
        return RegionInfo(header.world, groups, header.piece, header.spin_us, bool(header.debug))

    def close(self) -> None:
        """Closes the descriptor; ranks that have the region open keep it."""
        os.close(self.fd)

    def _mapped(self) -> mmap.mmap:
        return mmap.mmap(self.fd, self.size)


def read_records(fd: int) -> tuple[RankRecord, ...]:
    """What each rank was last in; works for ranks that have died or are stopped."""
    now = time.monotonic_ns()
    with mmap.mmap(fd, Region.of_fd(fd).size, prot=mmap.PROT_READ) as memory:
        header = _header(memory)
        groups = _read_groups(memory, header)
        return tuple(_read_record(memory, header, groups, rank, now) for rank in range(header.world))


def _check_memory(size: int, world: int) -> None:
    """ConfigError: too little memory is available. The kernel would not refuse it, but kill a process later."""
    with open("/proc/meminfo") as meminfo:
        available = next(int(line.split()[1]) << 10 for line in meminfo if line.startswith("MemAvailable"))
    if size > available:
        raise _too_large(size, world, f"{available} available")


def _too_large(size: int, world: int, why: str) -> ConfigError:
    message = f"shared memory between ranks: {size} bytes wanted, {why}; fewer ranks need less"
    return ConfigError(message, field="world", value=world)


@dataclass(frozen=True, slots=True)
class _Header:
    magic: int
    size: int
    piece: int
    world: int
    groups: int
    spin_us: int
    debug: int
    states: int
    records: int
    group_table: int


def _header(memory: mmap.mmap) -> _Header:
    header = _Header(*HEADER.unpack_from(memory, 0))
    if header.magic != MAGIC:
        raise ValueError("the descriptor is not a region of weft.compute.comm")
    return header


def _read_groups(memory: mmap.mmap, header: _Header) -> tuple[Group, ...]:
    entries = (GROUP.unpack_from(memory, header.group_table + i * GROUP.size) for i in range(header.groups))
    return tuple(struct.unpack_from(f"<{count}I", memory, at) for count, at, *_ in entries)


def _read_state(memory: mmap.mmap, at: int) -> State:
    return State(STATE.unpack_from(memory, at)[0] & 255)


def _read_record(memory: mmap.mmap, header: _Header, groups: Sequence[Group], rank: int, now: int) -> RankRecord:
    at = header.records + rank * RECORD.size
    kind, group, inside, pid, calls, size, since = RECORD.unpack_from(memory, at)
    return RankRecord(
        rank=rank,
        state=_read_state(memory, header.states + rank * STATE.size),
        pid=pid,
        kind=CollectiveKind(kind),
        group=groups[group] if kind else (),
        call=calls,
        bytes=size,
        inside=bool(inside),
        seconds=(now - since) / 1e9 if kind else 0.0,
    )
