"""How exchanges of owners of a KV cache are recorded: queries gathered, partial outputs sent. See `models.kv_exchange`.

Rows of an attention-dp group lie in the order of its ranks. A partial output lies in sections: the heads of each rank
of a kv_split together, for all rows. So what goes to a rank lies together, and so does what comes of an owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from weft.compute.comm.redistribute import Area, Areas, Plan
from weft.compute.ops.attention import KeyShare
from weft.compute.ops.operations.attention import HEAD_STARTS, SECTIONS
from weft.compute.ops.operations.declare import OpCode
from weft.compute.ops.operations.table import Op
from weft.model.models.kv_exchange import GroupRows, KVExchange
from weft.model.program.ir import Buffer, Rows, Table
from weft.model.program.tape import ROWS, Tape, TracingTransitions
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.boundaries import PARTIALS, QUERIES


class TracedKVExchange(KVExchange):
    """Takes the place of `KVExchange` in a recording. `share`: the keys that the rank has."""

    def __init__(self, shards: Shards, rank: int, transitions: TracingTransitions, tape: Tape) -> None:
        super().__init__(shards, rank, transitions)
        layout = shards.layout
        self._tape, self._tp, self._size = tape, layout.attention.tp, layout.group_size
        self._first = rank % layout.stage_size // self._size * self._size
        self._position = self._group.index(rank % layout.stage_size)
        self._starts = list(accumulate(self._heads, initial=0))
        self.share = KeyShare(self._position, layout.kv_owners)

    def queries(self, q: Tensor, rows: GroupRows) -> Tensor:
        dim, heads, table = q.shape[2], self._starts[-1], self._table(q)
        out = self._tape.tensor(Buffer(self._rows(table), heads * dim, q.dtype))
        takes = [self._area(self._first, owner, dim, whole=self._split == 1) for owner in range(len(self._group))]
        none = (None,) * len(takes)
        columns = heads * dim
        plan = Plan("all_gather", self._group, self._runs, columns, none, tuple(takes), None)
        self._record(Op.ALL_GATHER, QUERIES, out, q, plan)
        return out.view(ROWS, heads, dim)

    def partials(self, part: Tensor, rows: GroupRows) -> list[Tensor]:
        """[rows, E * (D + 2)] -> columns of a buffer of this rank's rows, those of each owner."""
        gave, table = self._tape.instructions[-1], self._table(part)
        gave.numbers[SECTIONS] = self._split
        gave.tensors[HEAD_STARTS] = torch.tensor(self._starts, dtype=torch.int32)
        width = part.shape[1] // self._starts[-1]
        columns, count, lo = self._own_heads * width, len(self._group), self._own_run
        block = Rows(table, lo, lo + self._tp)
        out = self._tape.tensor(Buffer(block, count * columns, part.dtype))
        sends = [self._area(self._first, owner, width, whole=True) for owner in range(count)]
        takes = [Area(lo, lo, lo + self._tp, owner * columns, (owner + 1) * columns, True) for owner in range(count)]
        keeps = sends[self._position], takes[self._position]
        plan = Plan(
            "all_to_all",
            self._group,
            (lo, lo + self._tp),
            count * columns,
            self._others(sends),
            self._others(takes),
            keeps,
        )
        self._record(Op.PARTIALS, PARTIALS, out, part, plan)
        return [out[:, owner * columns : (owner + 1) * columns] for owner in range(count)]

    def _others(self, areas: Sequence[Area]) -> Areas:
        """Without this rank's."""
        return tuple(None if owner == self._position else area for owner, area in enumerate(areas))

    @property
    def _runs(self) -> tuple[int, int]:
        """The ranks of the attention-dp group."""
        return self._first, self._first + self._size

    @property
    def _own_run(self) -> int:
        """The first rank of this one's attention block."""
        return self._first + self._block * self._tp

    def _rows(self, table: Table) -> Rows:
        return Rows(table, *self._runs)

    def _table(self, x: Tensor) -> Table:
        return self._tape.view(x).buffer.rows.table

    def _area(self, base: int, owner: int, width: int, whole: bool) -> Area:
        """Of all rows of the group and all heads, those of an owner; `width`: numbers of a head."""
        block, member = divmod(owner, self._split)
        lo = base + block * self._tp
        left, right = (self._starts[member + end] * width for end in range(2))
        return Area(base, lo, lo + self._tp, left, right, whole)

    def _record(self, op: OpCode, name: str, out: Tensor, x: Tensor, plan: Plan) -> None:
        before, self._tape.module = self._tape.module, name
        self._tape.add(op, out, self._tape.view(self._tape.whole(x))).plan = plan
        self._tape.module = before
