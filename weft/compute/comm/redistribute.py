"""Runs a transition on real rows: cuts the layout's pieces out of tensors and hands them to a `Comm`.

Which rank sends which rectangle to which rank is worked out once per step record and rank; a call only adds the row
numbers of its table. The number of tensor operations depends on the group, never on rows or requests.

Shapes: a tensor is [rows of the rank's runs, the rank's columns], contiguous; any dtype, any device, any row count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from weft.base.errors import WeftError
from weft.compute.comm.base import Comm, Group
from weft.parallel.layout.placement import Interval
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.transition import Rectangle, Step, StepKind, held


@dataclass(frozen=True, slots=True)
class Area:
    """Runs [lo, hi) x columns [left, right) of a buffer that begins with run `base`; `whole`: all its columns."""

    base: int
    lo: int
    hi: int
    left: int
    right: int
    whole: bool

    def rows(self, table: RowTable) -> int:
        return table.starts[self.hi] - table.starts[self.lo]

    def of(self, x: Tensor, table: RowTable) -> Tensor:
        """The view of this area of x; contiguous where `whole`."""
        starts = table.starts
        first = starts[self.lo]
        view = x.narrow(0, first - starts[self.base], starts[self.hi] - first)
        return view if self.whole else view.narrow(1, self.left, self.right - self.left)


Areas = tuple[Area | None, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One step on one rank: by position in the group, what it sends of its tensor and where in the result it takes.

    An all_to_all's own piece is in `keeps` (from, to) instead: it is copied straight to its place, the backend sees an
    empty one.
    """

    kind: StepKind
    group: Group
    runs: Interval
    columns: int
    sends: Areas
    takes: Areas
    keeps: tuple[Area, Area] | None

    def result(self, x: Tensor, table: RowTable) -> Tensor:
        """The empty tensor that the step fills."""
        return x.new_empty((table.starts[self.runs[1]] - table.starts[self.runs[0]], self.columns))


def redistribute(x: Tensor, steps: tuple[Step, ...], table: RowTable, rank: int, comm: Comm) -> Tensor:
    """x of the first step's `src` placement, moved to the last step's `dst`; all ranks of the group must call.

    table: rows of every rank of the stage, the same on all ranks. The result may share memory with x, and an
    all_reduce may write into x. WeftError where x is not what the placement and the table say.
    """
    if not steps:
        return x
    _check_shape(x, steps[0], table, rank)
    x = x.contiguous()
    for plan in plans(steps, rank):
        x = _RUN[plan.kind](x, plan, table, comm)
    return x


def _check_shape(x: Tensor, step: Step, table: RowTable, rank: int) -> None:
    rows, cols = _held(step, rank)
    wanted = (table.starts[rows[1]] - table.starts[rows[0]], cols[1] - cols[0])
    if x.shape != wanted:
        raise WeftError(f"rank {rank} holds rows x columns {tuple(x.shape)}, {step.src} means {wanted}")


def _slice(x: Tensor, plan: Plan, table: RowTable, comm: Comm) -> Tensor:
    return _sent(x, plan.sends, table)[0]


def _all_reduce(x: Tensor, plan: Plan, table: RowTable, comm: Comm) -> Tensor:
    return comm.all_reduce(x, plan.group)


def _reduce_scatter(x: Tensor, plan: Plan, table: RowTable, comm: Comm) -> Tensor:
    out = plan.result(x, table)
    comm.reduce_scatter(_sent(x, plan.sends, table), out, plan.group)
    return out


def _all_gather(x: Tensor, plan: Plan, table: RowTable, comm: Comm) -> Tensor:
    out = plan.result(x, table)
    parts = _targets(out, plan.takes, table)
    comm.all_gather(x, parts, plan.group)
    _place(out, parts, plan.takes, table)
    return out


def _all_to_all(x: Tensor, plan: Plan, table: RowTable, comm: Comm) -> Tensor:
    out = plan.result(x, table)
    if plan.keeps is not None:
        mine, place = plan.keeps
        place.of(out, table).copy_(mine.of(x, table))
    parts = _targets(out, plan.takes, table)
    comm.all_to_all(_sent(x, plan.sends, table), parts, plan.group)
    _place(out, parts, plan.takes, table)
    return out


_RUN: Mapping[StepKind, Callable[[Tensor, Plan, RowTable, Comm], Tensor]] = {
    "slice": _slice,
    "all_reduce": _all_reduce,
    "reduce_scatter": _reduce_scatter,
    "all_gather": _all_gather,
    "all_to_all": _all_to_all,
}


def _sent(x: Tensor, areas: Areas, table: RowTable) -> list[Tensor]:
    """Contiguous tensors of what goes to each member; row runs with all columns are views."""
    nothing = x.new_empty(0)
    return [nothing if area is None else area.of(x, table).contiguous() for area in areas]


def _targets(out: Tensor, areas: Areas, table: RowTable) -> list[Tensor]:
    """Where each member's piece arrives: a view of out for row runs with all columns, else memory of its own."""
    return [_target(out, area, table) for area in areas]


def _target(out: Tensor, area: Area | None, table: RowTable) -> Tensor:
    if area is None:
        return out.new_empty(0)
    return area.of(out, table) if area.whole else out.new_empty((area.rows(table), area.right - area.left))


def _place(out: Tensor, parts: list[Tensor], areas: Areas, table: RowTable) -> None:
    """Copies the pieces that arrived in scratch to their columns."""
    for area, part in zip(areas, parts, strict=True):
        if area is not None and not area.whole:
            area.of(out, table).copy_(part)


@cache
def _held(step: Step, rank: int) -> Rectangle:
    return held(step.src, rank, step.width)


@cache
def plans(steps: tuple[Step, ...], rank: int) -> tuple[Plan, ...]:
    return tuple(_plan(step, rank) for step in steps)


def _plan(step: Step, rank: int) -> Plan:
    group = step.group(rank)
    src, dst = held(step.src, rank, step.width), held(step.dst, rank, step.width)
    sends = {piece.peer: _area(src, piece.rows, piece.cols) for piece in step.sent(rank)}
    takes = {piece.peer: _area(dst, piece.rows, piece.cols) for piece in step.received(rank)}
    keeps = (sends.pop(rank), takes.pop(rank)) if step.kind == "all_to_all" and rank in takes else None
    return Plan(
        kind=step.kind,
        group=group,
        runs=dst[0],
        columns=dst[1][1] - dst[1][0],
        sends=tuple(sends.get(peer) for peer in group),
        takes=tuple(takes.get(peer) for peer in group),
        keeps=keeps,
    )


def _area(buffer: Rectangle, rows: Interval, cols: Interval) -> Area:
    (base, _), (left, right) = buffer
    return Area(base, *rows, cols[0] - left, cols[1] - left, cols == (left, right))
