"""From a rank's model to its step program, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from weft.base.errors import PeerError
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.metered import MeteredComm
from weft.compute.comm.shm.shared_memory import SharedMemoryComm
from weft.compute.native.runtime_records import DecodeRecord, FollowingRecord
from weft.compute.ops.attention import KVCache
from weft.compute.ops.base import RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.slot_tables import SlotTables
from weft.model.layers import Params
from weft.model.models.decoder import Batch
from weft.model.program.ir import NotTraceableError
from weft.model.program.lower import End
from weft.model.program.memory_planning import StepCapacity
from weft.model.program.program import ExchangeFailedError, StepProgram, record
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.ranks import block


class RankProgram:
    """A rank's program with what its collectives owe to the rank's `Comm`: counts, and errors that name a culprit."""

    def __init__(self, program: StepProgram, comm: Comm, block: Group, stage_size: int | None = None) -> None:
        """`block`: the ranks of this one's attention block. `stage_size`: of a pipeline stage; None: there is one."""
        self.program, self._comm, self._block, self._stage_size = program, comm, block, stage_size or comm.world
        self._metered = comm if isinstance(comm, MeteredComm) and comm.world > 1 else None
        self._seen = program.exchanged

    def run(self, batch: Batch, decode: DecodeRecord | None = None) -> Tensor:
        """As the program's, but PeerError where a collective fails."""
        with self._answered_for():
            return self.program.run(batch, decode)

    def follow(self, decode: DecodeRecord, following: FollowingRecord) -> bool:
        """As the program's, but PeerError where a collective fails."""
        with self._answered_for():
            return self.program.follow(decode, following)

    def group_of(self, pair: Group) -> int:
        """The number by which the library knows two ranks of the world."""
        return _backend(self._comm).end[1][pair][0]

    @property
    def sharing(self) -> tuple[int, int, int]:
        """Of the attention block, as the library knows it: its number, members and this rank's place; no members where
        the rank is alone."""
        if len(self._block) == 1:
            return 0, 0, 0
        number, position = _backend(self._comm).end[1][self._block]
        return number, len(self._block), position

    @contextmanager
    def _answered_for(self) -> Iterator[None]:
        try:
            yield
        except ExchangeFailedError as failed:
            try:
                _backend(self._comm).fail(failed.code, failed.kind, self._of_world(failed.group) or self._block)
            except PeerError as named:
                named.module = failed.module
                raise
            raise
        finally:
            self._count()

    def _of_world(self, group: Group) -> Group:
        """A program numbers its stage's ranks from 0; pairs of stages it names as the world does."""
        first = self._comm.rank - self._comm.rank % self._stage_size
        return group if not group or group[-1] >= self._stage_size else tuple(first + rank for rank in group)

    def _count(self) -> None:
        if self._metered is not None:
            now = self.program.exchanged
            self._metered.count(*(there - before for there, before in zip(now, self._seen, strict=True)))
            self._seen = now

    def close(self) -> None:
        """Frees the program."""
        self.program.close()


def build_program(
    shards: Shards,
    params: Params,
    comm: Comm,
    ops: Ops,
    ropes: Sequence[RotaryTables],
    caches: Sequence[KVCache],
    most: StepCapacity,
    max_positions: int,
    slot_tables: Mapping[int, SlotTables],
) -> RankProgram:
    """NotTraceableError says what keeps this rank from having a program. `most`: rows of one dp group in a step;
    `max_positions`: of the longest context; `slot_tables`: of the layers' experts."""
    if not isinstance(ops, StepOps):
        raise NotTraceableError(f"operations of {ops.name} are not those of the C++ step library")
    end = _end(comm, shards.layout.stage_size)
    recording = record(shards, params, comm, ops.numerics, ropes, caches, slot_tables)
    program = StepProgram(recording, shards, ops.pool, caches, most, max_positions, end)
    return RankProgram(program, comm, block(comm.rank, shards.layout.attention.tp), shards.layout.stage_size)


def _inner(comm: Comm) -> Comm:
    return comm.inner if isinstance(comm, MeteredComm) else comm


def _backend(comm: Comm) -> SharedMemoryComm:
    inner = _inner(comm)
    assert isinstance(inner, SharedMemoryComm)
    return inner


def _end(comm: Comm, stage_size: int) -> End | None:
    """What C++ calls; None where there is a single rank. Groups of its stage in the stage's own numbers."""
    inner = _inner(comm)
    if comm.world == 1:
        return None
    if not isinstance(inner, SharedMemoryComm):
        raise NotTraceableError("ranks do not meet in shared memory, which a program's collectives need")
    if inner.watched:
        raise NotTraceableError("every collective's shapes are compared")
    record, groups = inner.end
    first = comm.rank - comm.rank % stage_size
    inside = {group for group in groups if first <= group[0] and group[-1] < first + stage_size}
    of_stage = {tuple(rank - first for rank in group): groups[group] for group in inside}
    return End(record, of_stage | {group: at for group, at in groups.items() if group not in inside})
