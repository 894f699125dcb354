"""StepProgram: a rank's decoder as a program over flat buffers, and a step of it. See docs/architecture.md.

Recorded once at start; every step after that fills in numbers of rows and a few addresses, and calls C++ once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from weft.base.errors import PeerError, WeftError
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.stage import StageComm
from weft.compute.native.records import StepRecord
from weft.compute.native.runtime_records import DecodeRecord, FollowingRecord, StageIdsRecord
from weft.compute.native.step_library import UNCHOSEN, Pool, Program
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import Numerics, RotaryTables
from weft.compute.ops.native.large_pages import large_pages
from weft.compute.ops.operations.table import Op
from weft.compute.ops.slot_tables import SlotTables
from weft.model.layers import Params
from weft.model.models.build import build_decoder
from weft.model.models.decoder import Batch
from weft.model.models.kv_exchange import GroupRows
from weft.model.models.pipeline import PipelineStage
from weft.model.program.fusion import optimize
from weft.model.program.ir import Buffer, Recording, Rows, Table
from weft.model.program.local_logits import local_logits
from weft.model.program.lower import End, Lowering
from weft.model.program.memory_planning import StepCapacity, place, room_of
from weft.model.program.owner_exchange import TracedKVExchange
from weft.model.program.routed_exchange import TracedAllToAll
from weft.model.program.tape import Tape, TracingTransitions
from weft.model.program.tracing import TracingOps
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.rows import RowTable, row_table


def record(
    shards: Shards,
    params: Params,
    comm: Comm,
    numerics: Numerics,
    ropes: Sequence[RotaryTables],
    caches: Sequence[KVCache],
    slot_tables: Mapping[int, SlotTables],
) -> Recording:
    """The decoder of rank `comm.rank` as instructions, from the rows that the stage before sends to those that the next
    one gets. NotTraceableError says what has none. `slot_tables`: of the layers' experts, which the program reads in
    every step."""
    tape, layout, world_rank = Tape({id(cache): layer for layer, cache in enumerate(caches)}), shards.layout, comm.rank
    comm = comm if layout.pipeline.stages == 1 else StageComm(comm, layout.stage_size)
    blocks = layout.attention.dp * layout.attention.cp
    one_each = [layout.attention.tp] * blocks  # a rank without rows would send none
    rows, sampled = (row_table(one_each, layout.attention.tp) for _ in range(2))
    tables: dict[int, Table] = {id(rows): "rows", id(sampled): "sampled"}
    transitions = TracingTransitions(shards.forward_plan.boundaries, comm, tape, tables)
    ops = TracingOps(numerics, tape)
    exchanges = shards.forward_plan.exchanges
    routed = TracedAllToAll(transitions, exchanges[0].block, tape, numerics) if exchanges else None
    stage = shards.stage_of(world_rank)
    owners = TracedKVExchange(shards, comm.rank, transitions, tape) if layout.kv_owners > 1 else None
    decoder = build_decoder(
        shards,
        params,
        comm,
        ops,
        ropes,
        transitions,
        stage,
        slot_tables=slot_tables,
        dispatcher=routed,
        kv_exchange=owners,
    )
    pipeline = PipelineStage(shards, world_rank, transitions, numerics.dtype, torch.device("meta"))
    first = comm.rank % shards.layout.stage_size // shards.layout.attention.tp * shards.layout.attention.tp
    block = Rows("rows", first, first + shards.layout.attention.tp)
    ids = tape.tensor(Buffer(block, 1, torch.int64, given=True))
    nothing = torch.empty(0, dtype=torch.int32, device="meta")
    meta = AttentionMeta(nothing, nothing, nothing, nothing, (), None if owners is None else owners.share)
    group = None if owners is None else GroupRows(meta)
    batch = Batch(ids, meta, rows, sampled, nothing, meta, group, group)
    found = decoder.forward(batch, caches, pipeline.arrived(batch))
    pipeline.pass_on(found, batch)
    # a step whose prompts gather keys runs operation by operation: it must not differ from the others
    return optimize(Recording(tuple(tape.instructions), tape.view(found)), rounds_alike=owners is not None)


class StepProgram:
    """Runs steps of a recording on a pool. `instructions`: what it runs, in order."""

    def __init__(
        self,
        recording: Recording,
        shards: Shards,
        pool: Pool,
        caches: Sequence[KVCache],
        most: StepCapacity,
        max_positions: int,
        end: End | None = None,
        exact: bool = False,
    ) -> None:
        """`most`: rows of one dp group in a step; `max_positions`: of the longest context."""
        self._most, self._group = most, shards.layout.group_size
        rooms: dict[Table, int] = {
            table: room_of(shards.layout, most, Rows(table, 0, 1)) for table in ("rows", "sampled")
        }
        assembler = Lowering(recording, caches, pool, max_positions, end, exact)
        places, scratch = place(recording, partial(room_of, shards.layout, most), assembler.scratch_bytes(rooms))
        self._arena = large_pages(places.nbytes)
        code = assembler.assemble(places, scratch, self._arena.data_ptr(), rooms)
        self.instructions = tuple(recording.instructions)
        self._kinds = {
            index: (_KINDS.get(each.op) or each.op.name.lower(), each.exchange, each.module)
            for index, each in enumerate(recording.instructions)
            if each.exchange is not None
        }
        self.arena_bytes = places.nbytes
        self._native = Program(pool, code, None if end is None else end.record, assembler.keeps)
        self._registers = assembler.registers
        self._logits = recording.logits.buffer
        self.logits = self._rows_at(places.of[self._logits], room_of(shards.layout, most, self._logits.rows))
        """[most rows, vocabulary]; those of a step are the first."""
        self.local_logits = local_logits(recording, shards.layout, places, self._arena.data_ptr())
        self._step = StepRecord()
        self._decoded: Batch | None = None
        """Whose addresses `_step` has, where its inputs were made by the last run."""
        self._counted: tuple[RowTable | None, RowTable | None] = (None, None)
        self._ends_of: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def run(self, batch: Batch, decode: DecodeRecord | None = None) -> Tensor:
        """Logits [own sampled rows, vocabulary], valid until the next step. ExchangeFailedError where a collective
        failed. `decode`: how to make inputs, where `batch` has only room for them, and whether tokens are chosen too
        (logits may then be those of an earlier step); WeftError: its columns have a slot or a position that there is
        not."""
        if decode is None or batch is not self._decoded:
            self._point_at(batch)
            self._decoded = None if decode is None else batch
        code = self._native.run(self._step, decode)
        if code:
            self._fail(code)
        return self._result

    def follow(self, decode: DecodeRecord, following: FollowingRecord) -> bool:
        """Runs the steps that follow, as long as they have shapes of `following`, with `decode` as of `run`. True: the
        next step has run too, and its tokens are to be chosen. Errors as of `run`."""
        code = self._native.follow(decode, following)
        if code not in (0, UNCHOSEN):
            ids = StageIdsRecord.from_address(following.ids)
            if ids.failed:
                raise ExchangeFailedError(code, ("recv" if ids.takes else "send", (ids.low, ids.high), "ids.in"))
            self._fail(code)
        return code == UNCHOSEN

    def counts(self) -> StepRecord:
        """A copy of what the last step had; its addresses are valid as long as its batch and `kept`."""
        return StepRecord.from_buffer_copy(self._step)

    @property
    def kept(self) -> tuple[object, ...]:
        """Memory that the record of the last step refers to."""
        return tuple(self._starts), self._ends

    def _fail(self, code: int) -> None:
        if code < 0:
            raise WeftError("a step with a row beyond the slots or beyond the longest context")
        failed_at = self._native.failed_at  # where help was awaited, that is no exchange: the next one would have been
        ahead = (exchange for index, exchange in self._kinds.items() if index >= failed_at)
        raise ExchangeFailedError(code, next(ahead, _OF_TOKENS))

    def _point_at(self, batch: Batch) -> None:
        step, meta, (attended, sampled) = self._step, batch.meta, _attended(batch)
        if batch.rows is not self._counted[0] or batch.sampled is not self._counted[1]:
            self._check(batch)
            self._count(batch.rows, batch.sampled)
        if (attended.row_ends, sampled.row_ends) != self._ends_of:
            self._take_ends(attended.row_ends, sampled.row_ends)
        step.ids, step.sampled_rows = batch.ids.data_ptr(), batch.sampled_rows.data_ptr()
        step.positions, step.slots = meta.positions.data_ptr(), meta.slots.data_ptr()
        step.run_of_row = meta.run_of_row.data_ptr()
        step.sampled_positions, step.group_positions = sampled.positions.data_ptr(), attended.positions.data_ptr()
        step.block_tables, step.table_width = attended.block_tables.data_ptr(), attended.block_tables.shape[1]

    def _check(self, batch: Batch) -> None:
        """Rows beyond their room would be written over something else."""
        for table, most in ((batch.rows, self._most.rows), (batch.sampled, self._most.sampled)):
            for first in range(0, len(table.rows), self._group):
                if (count := table.count(first, first + self._group)) > most:
                    raise WeftError(f"a step of {count} rows of a group in a program that has room for {most}")

    def _count(self, rows: RowTable, sampled: RowTable) -> None:
        """Takes over the counts of rows; steps of one shape bring the same tables."""
        self._counted = rows, sampled
        self._starts = [np.asarray(table.starts, np.int64) for table in self._counted]
        self._step.starts[0], self._step.starts[1] = (each.ctypes.data for each in self._starts)
        of: Mapping[Table, Sequence[int]] = {"rows": rows.starts, "sampled": sampled.starts}
        counts = [of[each.table][each.hi] - of[each.table][each.lo] for each in (*self._registers, self._logits.rows)]
        for number, count in enumerate(counts[:-1]):
            self._step.rows[number] = count
        self._result = self.logits[: counts[-1]]

    def _take_ends(self, of_rows: tuple[int, ...], of_sampled: tuple[int, ...]) -> None:
        self._ends_of = of_rows, of_sampled
        self._ends = np.asarray(self._ends_of, np.int32)
        self._step.row_ends, self._step.sampled_row_ends = (each.ctypes.data for each in self._ends)
        self._step.runs = len(of_rows)

    def _rows_at(self, at: int, rows: int) -> Tensor:
        size = rows * self._logits.columns * self._logits.dtype.itemsize
        return self._arena[at : at + size].view(self._logits.dtype).view(rows, self._logits.columns)

    @property
    def exchanged(self) -> tuple[int, int, int]:
        """Nanoseconds inside collectives, those of them in which it waited for other pipeline stages, and bytes
        received so far."""
        return self._native.exchange_ns, self._native.stage_wait_ns, self._native.received

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


_KINDS = {Op.ROUTED: "all_to_all", Op.PARTIALS: "all_to_all"}
"""Collectives of another name than the operation's."""
_OF_TOKENS: tuple[str, Group, str] = ("all_gather", (), "sampling.out")
"""How the tokens that a block's ranks chose come together, after the program."""


class ExchangeFailedError(PeerError):
    """A collective inside a program failed; `code` is the library's, `kind`, `group` and `module` the collective's; no
    group: the attention block."""

    def __init__(self, code: int, exchange: tuple[str, Group, str]) -> None:
        self.code, (self.kind, self.group, self.module) = code, exchange
        super().__init__(f"{self.kind} over {self.group} failed with code {code}")


def _attended(batch: Batch) -> tuple[AttentionMeta, AttentionMeta]:
    """The rows that attention takes, and those of its sampled rows."""
    if batch.group is None or batch.sampled_group is None:
        return batch.meta, batch.sampled_meta
    return batch.group.by_rank, batch.sampled_group.by_rank
