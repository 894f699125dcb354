"""From a step plan to one rank's tensors. Knows the layout's rows and the plan's records; no scheduler and no module.

Host arrays are built per step with NumPy and moved in a few copies, however many requests the step carries. What does
not change between steps of one shape (how many rows each request has, and which of them are sampled) is worked out
once: decode steps mostly follow one another with the same shape. Tables of blocks are kept from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.layout.layout import Layout
from weft.layout.rows import RowTable, row_table, sampled_table
from weft.models.decoder import Batch
from weft.ops.base import AttentionMeta
from weft.step.plan import Run, StepPlan


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a rank must know to place rows: its layout, number, block size (tokens) and device."""

    layout: Layout
    rank: int
    block_size: int
    device: torch.device

    @property
    def stage_rank(self) -> int:
        """This rank's number inside its stage."""
        return self.rank % self.layout.stage_size

    @property
    def group(self) -> int:
        """Number of this rank's attention-dp group."""
        return self.stage_rank // self.layout.attention.tp

    @property
    def position(self) -> int:
        """This rank's position inside its attention block."""
        return self.stage_rank % self.layout.attention.tp


Counts = tuple[tuple[int, bool, int], ...]
"""Of a group's runs: rows, whether the last is sampled, and how many are scored."""
SHAPES = 64
"""Shapes of steps that are kept."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """What follows from the counts of a step alone. `run_of_row` and `within`: of each row of the group, its run and
    its number in it; `row_ends`: cumulative rows of the runs; `scores`: whether rows are scored; `draws_all`: whether
    every run is sampled; the rest as in `Batch` and `StepInputs`."""

    rows: RowTable
    sampled: RowTable
    sampled_rows: Tensor
    own: tuple[int, int]
    run_of_row: NDArray[np.int64]
    within: NDArray[np.int64]
    run_of_row_there: Tensor
    row_ends: tuple[int, ...]
    scores: bool
    draws_all: bool


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`batch` for the decoder; `sampled_runs`: one for each of the group's sampled rows, in the plan's order (a row
    that scores is a run of its own, with one target); `own`: which of them lie on this rank, [lo, hi); `drawn`: which
    of them give a token (None: all), and `slots` [tokens] where it belongs, on the device."""

    batch: Batch
    sampled_runs: tuple[Run, ...]
    own: tuple[int, int]
    drawn: list[bool] | None
    slots: Tensor


class BlockTables:
    """The block table of every slot, kept from step to step: a plan tells only what is new."""

    def __init__(self, slots: int, width: int) -> None:
        self._rows: NDArray[np.int32] = np.zeros((slots, width), np.int32)

    def take(self, run: Run) -> None:
        """What `run` tells of its slot's table."""
        end = run.known + len(run.blocks)
        if end > self._rows.shape[1]:
            self._rows = np.pad(self._rows, ((0, 0), (0, max(end, 2 * self._rows.shape[1]) - self._rows.shape[1])))
        self._rows[run.slot, run.known : end] = run.blocks

    def of(self, slots: NDArray[np.int64], width: int) -> NDArray[np.int32]:
        """[len(slots), width], a copy."""
        return self._rows[slots, :width]


class InputBuilder:
    """Makes the inputs of one rank's steps. `last_ids` [slots] holds the last sampled id of every slot, on the device;
    `width`: blocks of the longest context that is known of."""

    def __init__(self, geometry: Geometry, last_ids: Tensor, width: int) -> None:
        self._geometry, self._last_ids = geometry, last_ids
        self._tables = BlockTables(len(last_ids), width)
        self._shape = lru_cache(SHAPES)(lambda counts: shape_of(counts, geometry))

    def build(self, plan: StepPlan) -> StepInputs:
        """The step's inputs; the block tables take in what the plan tells."""
        runs = plan.groups[self._geometry.group].runs
        shape = self._shape(
            tuple([tuple([(run.count, run.sample, len(run.targets)) for run in each.runs]) for each in plan.groups])
        )
        slots = np.array([run.slot for run in runs], np.int64)
        meta, from_slot, tokens = _rows_of(runs, slots, shape, self._geometry, self._tables)
        batch = Batch(_ids(tokens, from_slot, self._last_ids), meta, shape.rows, shape.sampled, shape.sampled_rows)
        sampled = _sampled_runs(runs) if shape.scores or not shape.draws_all else tuple(runs)
        drawn = [run.sample for run in sampled] if shape.scores else None
        if not shape.draws_all:
            slots = np.array([run.slot for run in runs if run.sample], np.int64)
        return StepInputs(batch, sampled, shape.own, drawn, _to(slots, self._geometry.device))


def shape_of(counts: Sequence[Counts], geometry: Geometry) -> StepShape:
    """For the runs of every group of the layout."""
    layout, own = geometry.layout, counts[geometry.group]
    rows = row_table([sum(count for count, _, _ in each) for each in counts], layout.attention.tp)
    sampled, offsets = sampled_table([_sampled_rows(each) for each in counts], rows, layout.attention.tp)
    sizes = np.array([count for count, _, _ in own], np.int64)
    ends = np.cumsum(sizes)
    run_of_row = np.repeat(np.arange(len(own)), sizes)
    return StepShape(
        rows=rows,
        sampled=sampled,
        sampled_rows=_to(np.asarray(offsets[geometry.stage_rank], dtype=np.int64), geometry.device),
        own=_own(sampled, geometry),
        run_of_row=run_of_row,
        within=np.arange(len(run_of_row)) - np.repeat(ends - sizes, sizes),
        run_of_row_there=_to(run_of_row.astype(np.int32), geometry.device),
        row_ends=tuple(ends.tolist()),
        scores=any(targets for _, _, targets in own),
        draws_all=all(sample for _, sample, _ in own),
    )


def _sampled_rows(counts: Counts) -> list[int]:
    """Row numbers, inside the group, of the rows that are sampled."""
    rows: list[int] = []
    end = 0
    for count, sample, targets in counts:
        rows += range(end, end + targets)
        end += count
        if sample:
            rows.append(end - 1)
    return rows


def _sampled_runs(given: Sequence[Run]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for run in given:
        runs += [Run(run.slot, run.start + i, 1, [], run.blocks, False, 0, [t]) for i, t in enumerate(run.targets)]
        if run.sample:
            runs.append(run)
    return tuple(runs)


def _own(sampled: RowTable, geometry: Geometry) -> tuple[int, int]:
    first = geometry.stage_rank - geometry.position
    before = sum(sampled.rows[first : geometry.stage_rank])
    return before, before + sampled.rows[geometry.stage_rank]


def _rows_of(
    runs: Sequence[Run], slot_of_run: NDArray[np.int64], shape: StepShape, geometry: Geometry, tables: BlockTables
) -> tuple[AttentionMeta, NDArray[np.int64], NDArray[np.int64] | None]:
    """With the meta, per row: the slot whose last sampled id it takes, or -1, and the planned id (None: each takes a
    slot's)."""
    for run in runs:
        if run.blocks:
            tables.take(run)
    of_row, size = shape.run_of_row, geometry.block_size
    positions = np.array([run.start for run in runs], np.int64)
    if len(of_row) > len(runs):
        positions = positions[of_row] + shape.within
    block, offset = positions // size, positions % size
    table = tables.of(slot_of_run, int(block.max()) + 1 if len(runs) else 1)
    packed = np.empty((2, len(of_row)), np.int32)
    packed[0] = positions
    np.multiply(table[of_row, block], size, out=packed[1])
    packed[1] += offset
    there = _to(packed, geometry.device)
    meta = AttentionMeta(there[0], there[1], shape.run_of_row_there, _to(table, geometry.device), shape.row_ends)
    return meta, *_sources(runs, slot_of_run, shape)


def _sources(
    runs: Sequence[Run], slot_of_run: NDArray[np.int64], shape: StepShape
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    from_slot = slot_of_run[shape.run_of_row]
    planned = [index for index, run in enumerate(runs) if run.ids]
    if not planned:
        return from_slot, None
    tokens = np.zeros(len(from_slot), np.int64)
    for index in planned:
        run, end = runs[index], shape.row_ends[index]
        from_slot[end - run.count : end], tokens[end - run.count : end] = -1, run.ids
    return from_slot, tokens


def _ids(tokens: NDArray[np.int64] | None, from_slot: NDArray[np.int64], last_ids: Tensor) -> Tensor:
    if tokens is None:
        return last_ids.index_select(0, _to(from_slot, last_ids.device)).unsqueeze(1)
    packed = _to(np.stack((tokens, from_slot)), last_ids.device)
    ids = torch.where(packed[1] >= 0, last_ids[packed[1].clamp(min=0)], packed[0])
    return ids.unsqueeze(1)


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    found = torch.from_numpy(array)
    return found if device.type == "cpu" else found.to(device)
