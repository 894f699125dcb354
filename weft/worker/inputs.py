"""From a step plan to one rank's tensors. Knows the layout's rows and the plan's records; no scheduler and no module.

Host arrays are built per step with NumPy and moved in three copies, however many requests the step carries.
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


def build_inputs(plan: StepPlan, geometry: Geometry, last_ids: Tensor) -> StepInputs:
    """`last_ids` [slots] holds the last sampled id of every slot, on the device."""
    layout, group = geometry.layout, plan.groups[geometry.group]
    rows = row_table([sum(run.count for run in each.runs) for each in plan.groups], layout.attention.tp)
    sampled, offsets = sampled_table([_sampled_rows(each) for each in plan.groups], rows, layout.attention.tp)
    meta, from_slot, tokens = _rows_of(group.runs, geometry)
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


def _rows_of(runs: Sequence[Run], geometry: Geometry) -> tuple[AttentionMeta, NDArray[np.int64], NDArray[np.int64]]:
    counts = np.fromiter((run.count for run in runs), np.int64, len(runs))
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(runs) else 0
    run_of_row = np.repeat(np.arange(len(runs)), counts)
    starts = np.fromiter((run.start for run in runs), np.int64, len(runs))
    positions = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    tables = np.zeros((len(runs), max((len(run.blocks) for run in runs), default=1)), np.int32)
    for index, run in enumerate(runs):
        tables[index, : len(run.blocks)] = run.blocks
    blocks = tables[run_of_row, positions // geometry.block_size]
    slots = blocks.astype(np.int64) * geometry.block_size + positions % geometry.block_size
    packed = _to(np.stack((positions, slots, run_of_row)).astype(np.int32), geometry.device)
    meta = AttentionMeta(
        positions=packed[0],
        slots=packed[1],
        run_of_row=packed[2],
        block_tables=_to(tables, geometry.device),
        row_ends=tuple(ends.tolist()),
    )
    return meta, *_tokens(runs, total)


def _tokens(runs: Sequence[Run], total: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per row: the slot whose last sampled id it takes, or -1; and the planned id (0 where it takes a slot's)."""
    from_slot, tokens = np.full(total, -1, np.int64), np.zeros(total, np.int64)
    row = 0
    for run in runs:
        if run.ids:
            tokens[row : row + run.count] = run.ids
        else:
            from_slot[row] = run.slot
        row += run.count
    return from_slot, tokens


def _ids(tokens: NDArray[np.int64], from_slot: NDArray[np.int64], last_ids: Tensor) -> Tensor:
    packed = _to(np.stack((tokens, from_slot)), last_ids.device)
    ids = torch.where(packed[1] >= 0, last_ids[packed[1].clamp(min=0)], packed[0])
    return ids.unsqueeze(1)


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
