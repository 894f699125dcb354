"""From a rank's model to its step program, or the reason why there is none. Knows no scheduler and no process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from weft.arch.shards import Shards
from weft.comm.base import Comm
from weft.comm.metered import MeteredComm
from weft.comm.shared_memory import SharedMemoryComm
from weft.layers import Params
from weft.models.decoder import Batch
from weft.native.records import DecodeRecord
from weft.ops.base import KVCache, Ops
from weft.ops.slot_tables import SlotTables
from weft.ops.step_ops import StepOps
from weft.program.assemble import End
from weft.program.program import ExchangeFailedError, Most, StepProgram, record
from weft.program.values import NotRecordableError


class RankProgram:
    """A rank's program with what its collectives owe to the rank's `Comm`: counts, and errors that name a culprit."""

    def __init__(self, program: StepProgram, comm: Comm) -> None:
        self.program, self._comm = program, comm
        self._metered = comm if isinstance(comm, MeteredComm) and comm.world > 1 else None
        self._seen = program.exchanged

    def run(self, batch: Batch, decode: DecodeRecord | None = None) -> Tensor:
        """As the program's, but PeerError where a collective fails."""
        try:
            return self.program.run(batch, decode)
        except ExchangeFailedError as failed:
            _backend(self._comm).fail(failed.code, failed.kind, failed.group)
            raise
        finally:
            self._count()

    def _count(self) -> None:
        if self._metered is not None:
            now = self.program.exchanged
            self._metered.count(now[0] - self._seen[0], now[1] - self._seen[1])
            self._seen = now

    def close(self) -> None:
        """Frees the program."""
        self.program.close()


def build_program(
    shards: Shards,
    params: Params,
    comm: Comm,
    ops: Ops,
    cos_sin: Tensor,
    caches: Sequence[KVCache],
    most: Most,
    max_positions: int,
    slot_tables: Mapping[int, SlotTables],
) -> RankProgram:
    """NotRecordableError says what keeps this rank from having a program. `most`: rows of one dp group in a step;
    `max_positions`: of the longest context; `slot_tables`: of the layers' experts."""
    if not isinstance(ops, StepOps):
        raise NotRecordableError(f"operations {ops.name} have no program")
    end = _end(comm)
    recording = record(shards, params, comm, ops.numerics, cos_sin, caches, slot_tables)
    return RankProgram(StepProgram(recording, shards, ops.pool, caches, most, max_positions, end), comm)


def _inner(comm: Comm) -> Comm:
    return comm.inner if isinstance(comm, MeteredComm) else comm


def _backend(comm: Comm) -> SharedMemoryComm:
    inner = _inner(comm)
    assert isinstance(inner, SharedMemoryComm)
    return inner


def _end(comm: Comm) -> End | None:
    """What C++ calls; None where there is a single rank."""
    inner = _inner(comm)
    if comm.world == 1:
        return None
    if not isinstance(inner, SharedMemoryComm):
        raise NotRecordableError(f"collectives by {type(inner).__name__}: a program needs shared memory")
    if inner.watched:
        raise NotRecordableError("every collective's shapes are compared")
    return End(*inner.end)
