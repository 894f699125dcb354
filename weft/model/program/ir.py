"""The IR of a step program: buffers whose rows are counted per step, views of their columns, and instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from weft.compute.comm.base import Group
from weft.compute.comm.redistribute import Plan
from weft.compute.native.records import Epilogue
from weft.compute.ops.operations.declare import F, N, OpCode, P
from weft.compute.ops.operations.dense import EPILOGUE

Table = Literal["rows", "sampled"]
TABLES: tuple[Table, ...] = ("rows", "sampled")
"""Their order in a step's record."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How many rows a buffer has: those of the runs [lo, hi) of a step's table."""

    table: Table
    lo: int
    hi: int


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory for contiguous rows of `columns` elements. `given`: the step's own ids. `alias_of`:
    the buffer in whose memory these rows lie, where an instruction has taken the others away."""

    rows: Rows
    columns: int
    dtype: torch.dtype
    given: bool = False
    alias_of: Buffer | None = None

    @property
    def storage(self) -> Buffer:
        """The buffer whose memory it lies in."""
        return self if self.alias_of is None else self.alias_of.storage


@dataclass(frozen=True, slots=True)
class View:
    """Columns [left, left + columns) of a buffer; `fold`: every row of it holds so many contiguous rows."""

    buffer: Buffer
    left: int
    columns: int
    fold: int = 1


@dataclass(slots=True)
class Instruction:
    """One operation. `numbers` and `floats` by their index in the record; `tensors` likewise: weights and tables.

    `module`: whose, for a profile. `plan`: what an exchange or a copy of a part moves, over `table`.
    """

    op: OpCode
    module: str
    out: View
    inputs: tuple[View, ...]
    numbers: dict[N, int] = field(default_factory=dict)
    floats: dict[F, float] = field(default_factory=dict)
    tensors: dict[P, object] = field(default_factory=dict)
    views: dict[P, View] = field(default_factory=dict)
    """What else it reads or writes, by its index among the record's pointers."""
    plan: Plan | None = None
    group: Group | None = None
    """The ranks that it exchanges with, where no plan says it."""
    cache: int | None = None
    """The layer whose cache it reads or writes."""

    @property
    def exchange(self) -> Group | None:
        """The ranks that it exchanges with; None: it is no exchange."""
        return self.plan.group if self.plan is not None else self.group

    @property
    def touched(self) -> tuple[View, ...]:
        """Everything that it reads or writes."""
        return (self.out, *self.inputs, *self.views.values())

    @property
    def epilogue(self) -> Epilogue:
        """Of a linear."""
        return Epilogue(self.numbers.get(EPILOGUE, 0))


@dataclass(frozen=True, slots=True)
class Recording:
    """A decoder's step as instructions; `logits` is what it gives."""

    instructions: Sequence[Instruction]
    logits: View


class NotTraceableError(Exception):
    """A decoder does what no instruction says; `str()` is the reason, for a person."""
