"""From a step plan to one rank's tensors. Knows the layout's rows and the plan's records; no scheduler and no module.

Host arrays are built per step with NumPy and moved in three copies, however many requests the step carries. Tables of
blocks are kept from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.layout.layout import Layout
from weft.layout.rows import RowTable, row_table, sampled_table
from weft.models.decoder import Batch
from weft.ops.base import AttentionMeta
from weft.step.plan import GroupPlan, Run, StepPlan


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


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`batch` for the decoder; `sampled_runs`: one for each of the group's sampled rows, in the plan's order (a row
    that scores is a run of its own, with one target); `own`: which of them lie on this rank, [lo, hi)."""

    batch: Batch
    sampled_runs: tuple[Run, ...]
    own: tuple[int, int]


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


def build_inputs(plan: StepPlan, geometry: Geometry, last_ids: Tensor, tables: BlockTables) -> StepInputs:
    """`last_ids` [slots] holds the last sampled id of every slot, on the device; `tables` takes in what is new."""
    layout, group = geometry.layout, plan.groups[geometry.group]
    rows = row_table([sum(run.count for run in each.runs) for each in plan.groups], layout.attention.tp)
    sampled, offsets = sampled_table([_sampled_rows(each) for each in plan.groups], rows, layout.attention.tp)
    meta, from_slot, tokens = _rows_of(group.runs, geometry, tables)
    batch = Batch(
        ids=_ids(tokens, from_slot, last_ids),
        meta=meta,
        rows=rows,
        sampled=sampled,
        sampled_rows=_to(np.asarray(offsets[geometry.stage_rank], dtype=np.int64), geometry.device),
    )
    return StepInputs(batch, _sampled_runs(group), _own(sampled, geometry))


def _sampled_rows(group: GroupPlan) -> list[int]:
    """Row numbers, inside the group, of the rows that are sampled."""
    rows: list[int] = []
    end = 0
    for run in group.runs:
        if run.targets:
            rows += range(end, end + len(run.targets))
        end += run.count
        if run.sample:
            rows.append(end - 1)
    return rows


def _sampled_runs(group: GroupPlan) -> tuple[Run, ...]:
    runs: list[Run] = []
    for run in group.runs:
        runs += [Run(run.slot, run.start + i, 1, [], run.blocks, False, 0, [t]) for i, t in enumerate(run.targets)]
        if run.sample:
            runs.append(run)
    return tuple(runs)


def _own(sampled: RowTable, geometry: Geometry) -> tuple[int, int]:
    first = geometry.stage_rank - geometry.position
    before = sum(sampled.rows[first : geometry.stage_rank])
    return before, before + sampled.rows[geometry.stage_rank]


def _rows_of(
    runs: Sequence[Run], geometry: Geometry, tables: BlockTables
) -> tuple[AttentionMeta, NDArray[np.int64], NDArray[np.int64]]:
    slot_of_run = np.fromiter((run.slot for run in runs), np.int64, len(runs))
    starts = np.fromiter((run.start for run in runs), np.int64, len(runs))
    counts = np.fromiter((run.count for run in runs), np.int64, len(runs))
    for run in runs:
        if run.blocks:
            tables.take(run)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(runs) else 0
    run_of_row = np.repeat(np.arange(len(runs)), counts)
    positions = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    width = int((starts + counts).max() - 1) // geometry.block_size + 1 if len(runs) else 1
    table = tables.of(slot_of_run, width)
    blocks = table[run_of_row, positions // geometry.block_size]
    slots = blocks.astype(np.int64) * geometry.block_size + positions % geometry.block_size
    packed = _to(np.stack((positions, slots, run_of_row)).astype(np.int32), geometry.device)
    meta = AttentionMeta(
        positions=packed[0],
        slots=packed[1],
        run_of_row=packed[2],
        block_tables=_to(table, geometry.device),
        row_ends=tuple(ends.tolist()),
    )
    # per row: the slot whose last sampled id it takes, or -1; and the planned id (0 where it takes a slot's)
    from_slot, tokens = np.repeat(slot_of_run, counts), np.zeros(total, np.int64)
    for index, run in enumerate(runs):
        if run.ids:
            rows = slice(int(ends[index]) - run.count, int(ends[index]))
            from_slot[rows], tokens[rows] = -1, run.ids
    return meta, from_slot, tokens


def _ids(tokens: NDArray[np.int64], from_slot: NDArray[np.int64], last_ids: Tensor) -> Tensor:
    packed = _to(np.stack((tokens, from_slot)), last_ids.device)
    ids = torch.where(packed[1] >= 0, last_ids[packed[1].clamp(min=0)], packed[0])
    return ids.unsqueeze(1)


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
