"""StepProgram: a rank's decoder as a program over flat buffers, and a step of it. See docs/architecture.md.

Recorded once at start; every step after that fills in numbers of rows and a few addresses, and calls C++ once.
Knows no scheduler and no sampling.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from weft.arch.shards import Shards
from weft.comm.base import Comm, Group
from weft.errors import PeerError, WeftError
from weft.layers import Params
from weft.layout.layout import Layout
from weft.layout.rows import row_table
from weft.models.build import build_decoder
from weft.models.decoder import Batch
from weft.native.records import Op, StepRecord
from weft.native.step_library import Pool, Program
from weft.ops.base import AttentionMeta, KVCache, Numerics
from weft.ops.slot_tables import SlotTables
from weft.program.assemble import Assembler, End
from weft.program.notes import Notes, RecordingTransitions
from weft.program.passes import optimize, place
from weft.program.recorder import RecordingOps
from weft.program.routed_exchange import RecordedAllToAll
from weft.program.values import Buffer, NotRecordableError, Recording, Rows, Table


def record(
    shards: Shards,
    params: Params,
    comm: Comm,
    numerics: Numerics,
    cos_sin: Tensor,
    caches: Sequence[KVCache],
    slot_tables: Mapping[int, SlotTables],
) -> Recording:
    """The decoder of rank `comm.rank` as instructions. NotRecordableError says what has none. `slot_tables`: of the
    layers' experts, which the program reads in every step."""
    if shards.config.mla is not None:
        raise NotRecordableError("no instruction for latent attention yet")
    notes = Notes()
    rows, sampled = (row_table([0] * shards.layout.attention.dp, shards.layout.attention.tp) for _ in range(2))
    tables: dict[int, Table] = {id(rows): "rows", id(sampled): "sampled"}
    transitions = RecordingTransitions(shards.passage.boundaries, comm, notes, tables)
    ops = RecordingOps(numerics, notes, {id(cache): layer for layer, cache in enumerate(caches)})
    exchanges = shards.passage.exchanges
    routed = RecordedAllToAll(transitions, exchanges[0].block, notes, numerics) if exchanges else None
    decoder = build_decoder(shards, params, comm, ops, cos_sin, transitions, slot_tables=slot_tables, dispatcher=routed)
    first = comm.rank % shards.layout.stage_size // shards.layout.attention.tp * shards.layout.attention.tp
    block = Rows("rows", first, first + shards.layout.attention.tp)
    ids = notes.tensor(Buffer(block, 1, torch.int64, given=True))
    nothing = torch.empty(0, dtype=torch.int32, device="meta")
    batch = Batch(ids, AttentionMeta(nothing, nothing, nothing, nothing, ()), rows, sampled, nothing)
    logits = decoder.forward(batch, caches)
    return optimize(Recording(tuple(notes.instructions), notes.view(logits)))


@dataclass(frozen=True, slots=True)
class Most:
    """What a program has room for in a step of one dp group: rows, and how many of them are sampled."""

    rows: int
    sampled: int


class StepProgram:
    """Runs steps of a recording on a pool. `instructions`: what it runs, in order."""

    def __init__(
        self,
        recording: Recording,
        shards: Shards,
        pool: Pool,
        caches: Sequence[KVCache],
        most: Most,
        max_positions: int,
        end: End | None = None,
        exact: bool = False,
    ) -> None:
        """`most`: rows of one dp group in a step; `max_positions`: of the longest context."""
        self._most, self._tp = most, shards.layout.attention.tp
        rooms: dict[Table, int] = {
            table: _room(shards.layout, most, Rows(table, 0, 1)) for table in ("rows", "sampled")
        }
        assembler = Assembler(recording, caches, pool, max_positions, end, exact)
        places, scratch = place(recording, partial(_room, shards.layout, most), assembler.scratch_bytes(rooms))
        self._arena, address = _pages(places.nbytes)
        code = assembler.assemble(places, scratch, address, rooms)
        self.instructions = tuple(recording.instructions)
        self._kinds = {
            index: ("all_to_all" if each.op is Op.ROUTED else each.op.name.lower(), each.exchange)
            for index, each in enumerate(recording.instructions)
            if each.exchange is not None
        }
        self.arena_bytes = places.nbytes
        self._native = Program(pool, code, None if end is None else end.record, assembler.keeps)
        self._registers = assembler.registers
        self._logits, logits = recording.logits, recording.logits.buffer
        self._logits_at = places.of[logits]
        self._step = StepRecord()

    def run(self, batch: Batch) -> Tensor:
        """Logits [own sampled rows, vocabulary], valid until the next step. ExchangeFailedError where a collective
        failed."""
        self._check(batch)
        step, keep = self._step, [np.asarray(t.starts, np.int64) for t in (batch.rows, batch.sampled)]
        starts: Mapping[Table, Sequence[int]] = {"rows": batch.rows.starts, "sampled": batch.sampled.starts}
        for number, rows in enumerate(self._registers):
            step.rows[number] = starts[rows.table][rows.hi] - starts[rows.table][rows.lo]
        meta = batch.meta
        ends = np.asarray(meta.row_ends, np.int32)
        step.ids, step.sampled_rows = batch.ids.data_ptr(), batch.sampled_rows.data_ptr()
        step.positions, step.slots = meta.positions.data_ptr(), meta.slots.data_ptr()
        step.run_of_row, step.block_tables = meta.run_of_row.data_ptr(), meta.block_tables.data_ptr()
        step.row_ends, step.runs, step.table_width = ends.ctypes.data, len(ends), meta.block_tables.shape[1]
        step.starts[0], step.starts[1] = (each.ctypes.data for each in keep)
        code = self._native.run(step)
        if code:
            raise ExchangeFailedError(code, self._kinds[self._native.failed_at])
        return self._result(starts)

    def _check(self, batch: Batch) -> None:
        """Rows beyond their room would be written over something else."""
        for table, most in ((batch.rows, self._most.rows), (batch.sampled, self._most.sampled)):
            for first in range(0, len(table.rows), self._tp):
                if (count := table.count(first, first + self._tp)) > most:
                    raise WeftError(f"a step of {count} rows of a group in a program that has room for {most}")

    def _result(self, starts: Mapping[Table, Sequence[int]]) -> Tensor:
        buffer = self._logits.buffer
        rows = starts[buffer.rows.table][buffer.rows.hi] - starts[buffer.rows.table][buffer.rows.lo]
        size = rows * buffer.columns * buffer.dtype.itemsize
        return self._arena[self._logits_at : self._logits_at + size].view(buffer.dtype).view(rows, buffer.columns)

    @property
    def exchanged(self) -> tuple[int, int]:
        """Nanoseconds inside collectives and bytes received so far."""
        return self._native.exchange_ns, self._native.received

    def profile(self, on: bool) -> None:
        """Starts counting time anew, or stops."""
        self._native.profile(on)

    def spent_us(self) -> list[float]:
        """Microseconds of each instruction since `profile(True)`, its barrier included."""
        return self._native.spent_us()

    def __len__(self) -> int:
        return len(self.instructions)

    def close(self) -> None:
        """Frees the program; its logits with it."""
        self._native.close()


class ExchangeFailedError(PeerError):
    """A collective inside a program failed; `code` is the library's, `kind` and `group` the collective's."""

    def __init__(self, code: int, exchange: tuple[str, Group]) -> None:
        self.code, (self.kind, self.group) = code, exchange
        super().__init__(f"{self.kind} over {self.group} failed with code {code}")


def _room(layout: Layout, most: Most, rows: Rows) -> int:
    """Room for the runs [lo, hi): of an attention block's rows each rank has at most its share, rounded up; of the
    sampled ones it may have all."""
    tp = layout.attention.tp
    share = -(-most.rows // tp)
    if rows.table == "rows":
        return (rows.hi - rows.lo) * share
    ranks = [min(rows.hi, first + tp) - max(rows.lo, first) for first in range(rows.lo // tp * tp, rows.hi, tp)]
    return sum(min(each * share, most.sampled) for each in ranks)


def _pages(nbytes: int) -> tuple[Tensor, int]:
    """Memory that the system gives page by page when it is first written."""
    pages = mmap.mmap(-1, max(nbytes, mmap.PAGESIZE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    arena = torch.frombuffer(pages, dtype=torch.uint8)
    return arena, arena.data_ptr()
