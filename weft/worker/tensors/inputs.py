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

from weft.errors import WeftError
from weft.layout.layout import Layout
from weft.layout.placement import Placement
from weft.layout.rank_plans import GroupCounts, counts_of, every_run, sampled_rows_of
from weft.layout.rows import RowTable, sampled_among, sampled_table
from weft.models.decoder import Batch
from weft.ops.attention import AttentionMeta
from weft.sampling.sampled_rows import SampledRows, sampled_rows
from weft.step.plan import GroupPlan, RankPlan


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a rank must know to place rows: its layout, number, block size (tokens), device, and where the residual
    stream lies."""

    layout: Layout
    rank: int
    block_size: int
    device: torch.device
    stream: Placement

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


SHAPES = 64
"""Shapes of steps that are kept."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """What follows from the counts of a step alone. `run_of_row` and `within`: of each row of the group, its run and
    its number in it; `row_ends`: cumulative rows of the runs; `group_sampled`: numbers of the group's sampled rows,
    `sampled_ends`: their `row_ends`, the same object where all rows are sampled; `chosen_by`: sampled rows of each rank
    of the attention block; the rest as in `Batch` and `StepInputs`."""

    rows: RowTable
    sampled: RowTable
    sampled_rows: Tensor
    own: tuple[int, int]
    chosen_by: tuple[int, ...]
    run_of_row: NDArray[np.int64]
    within: NDArray[np.int64]
    run_of_row_there: Tensor
    row_ends: tuple[int, ...]
    group_sampled: Tensor
    sampled_ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`batch` for the decoder; `sampled`: the group's sampled rows; `own`: which of them lie on this rank, [lo, hi);
    `drawn`: numbers of those that give a token (None: all), and `slots` [tokens] where it belongs, on the device."""

    batch: Batch
    sampled: SampledRows
    own: tuple[int, int]
    drawn: Tensor | None
    slots: Tensor


class BlockTables:
    """The block table of every slot, kept from step to step: a plan has only what is new."""

    def __init__(self, slots: int, width: int) -> None:
        self.rows: NDArray[np.int32] = np.zeros((slots, width), np.int32)
        """[slots, width]; another array from when a longer context comes."""
        self.highest: NDArray[np.int64] = np.zeros(1, np.int64)
        """[1]: of all blocks that ever came; steps that follow one another in C++ write it too."""

    def take(self, slot: int, known: int, blocks: Sequence[int]) -> None:
        """The first `known` entries of the slot's table stay, `blocks` follow."""
        end = known + len(blocks)
        self._widen(end)
        self.rows[slot, known:end] = blocks
        self.highest[0] = max(self.highest[0], max(blocks, default=0))

    def grow(self, more: NDArray[np.int64]) -> None:
        """more [tables, 3]: slot, how many entries stay, and the block that follows."""
        self._widen(int(more[:, 1].max()) + 1)
        self.rows[more[:, 0], more[:, 1]] = more[:, 2]
        self.highest[0] = max(self.highest[0], more[:, 2].max())

    def _widen(self, width: int) -> None:
        held = self.rows.shape[1]
        if width > held:
            self.rows = np.pad(self.rows, ((0, 0), (0, max(width, 2 * held) - held)))

    def of(self, slots: NDArray[np.int64], width: int) -> NDArray[np.int32]:
        """[len(slots), width], a copy."""
        return self.rows[slots, :width]


class InputBuilder:
    """Makes the inputs of one rank's steps. `last_ids` [slots] holds the last sampled id of every slot, on the device;
    `width`: blocks of the longest context that is known of."""

    def __init__(self, geometry: Geometry, last_ids: Tensor, width: int) -> None:
        self._geometry, self._last_ids = geometry, last_ids
        self.tables = BlockTables(len(last_ids), width)
        self._shape = lru_cache(SHAPES)(lambda own, rows, sampled: shape_of(own, rows, sampled, geometry))

    def build(self, plan: RankPlan) -> StepInputs:
        """The step's inputs; the block tables take in what the plan has."""
        group, device = plan.group, self._geometry.device
        shape = self.learn(plan)
        decodes = group.decodes.array()
        slots = _column(decodes[0], [run.slot for run in group.runs])
        starts = _column(decodes[1], [run.start for run in group.runs])
        meta = _meta(starts, self.tables, slots, shape, self._geometry)
        sampled = sampled_rows(decodes, group.runs)
        drawn = None if sampled.targets is None else (sampled.positions >= 0).nonzero()[0]
        there = _to(sampled.slots if drawn is None else sampled.slots[drawn], device)
        if group.runs:
            ids = _ids(*_sources(group, slots, shape), self._last_ids)
        else:
            ids = self._last_ids.index_select(0, there)
        batch = Batch(ids.unsqueeze(1), meta, shape.rows, shape.sampled, shape.sampled_rows, _of_sampled(meta, shape))
        return StepInputs(batch, sampled, shape.own, None if drawn is None else _to(drawn, device), there)

    def learn(self, plan: RankPlan) -> StepShape:
        """What follows from the step's counts; the block tables take in what the plan has. To be called once."""
        group = plan.group
        if group.decodes.grown:
            self.tables.grow(group.decodes.new_blocks())
        for update in group.decodes.table_updates:
            self.tables.take(*update)
        for run in group.runs:
            if run.blocks:
                self.tables.take(run.slot, run.known, run.blocks)
        return self._shape(counts_of(group), plan.rows, plan.sampled)


def _column(decodes: NDArray[np.int64], runs: list[int]) -> NDArray[np.int64]:
    return np.concatenate((decodes, np.array(runs, np.int64))) if runs else decodes


def shape_of(counts: GroupCounts, rows: tuple[int, ...], sampled: tuple[int, ...], geometry: Geometry) -> StepShape:
    """For the runs of this rank's group; `rows` and `sampled` of every rank of the stage as in `RankPlan`. WeftError:
    they are not those of the group."""
    tp, own = geometry.layout.attention.tp, every_run(counts)
    first, table = geometry.stage_rank - geometry.position, RowTable(rows)
    of_block = RowTable(rows[first : first + tp])
    sampled_of_block, offsets = sampled_table([sampled_rows_of(own)], of_block, tp)
    of_all = RowTable(sampled or rows)
    sizes = np.array([count for count, _, _ in own], np.int64)
    if sum(of_block.rows) != sizes.sum() or sampled_of_block.rows != of_all.rows[first : first + tp]:
        raise WeftError(
            f"attention-dp group {geometry.group} has {sizes.sum()} rows, the step's tables have {of_block.rows} and"
            f" {of_all.rows[first : first + tp]} sampled ones on its ranks, not {sampled_of_block.rows}"
        )
    ends = np.cumsum(sizes)
    run_of_row = np.repeat(np.arange(len(own)), sizes)
    row_ends = tuple(ends.tolist())
    sampled_ends = tuple(np.cumsum([targets + sample for _, sample, targets in own]).tolist())

    def among_block_of(size: int) -> Tensor:
        lo = geometry.position // size * size
        return _to(np.asarray(sampled_among(offsets, of_block, lo, lo + size), np.int64), geometry.device)

    return StepShape(
        rows=table,
        sampled=of_all,
        sampled_rows=among_block_of(geometry.stream.size),
        own=_own(of_all, geometry),
        chosen_by=sampled_of_block.rows,
        run_of_row=run_of_row,
        within=np.arange(len(run_of_row)) - np.repeat(ends - sizes, sizes),
        run_of_row_there=_to(run_of_row.astype(np.int32), geometry.device),
        row_ends=row_ends,
        group_sampled=among_block_of(tp),
        sampled_ends=row_ends if sampled_ends == row_ends else sampled_ends,
    )


def _own(sampled: RowTable, geometry: Geometry) -> tuple[int, int]:
    first = geometry.stage_rank - geometry.position
    before = sum(sampled.rows[first : geometry.stage_rank])
    return before, before + sampled.rows[geometry.stage_rank]


def _meta(
    starts: NDArray[np.int64], tables: BlockTables, slots: NDArray[np.int64], shape: StepShape, geometry: Geometry
) -> AttentionMeta:
    """starts, slots [runs]: decode rows count as runs."""
    of_row, size = shape.run_of_row, geometry.block_size
    positions = starts
    if len(of_row) > len(starts):
        positions = positions[of_row] + shape.within
    packed = np.empty((2, len(of_row)), np.int32)
    packed[0] = positions
    table = put_places(packed[1], positions, tables, slots, of_row, size)
    there = _to(packed, geometry.device)
    return AttentionMeta(there[0], there[1], shape.run_of_row_there, _to(table, geometry.device), shape.row_ends)


def put_places(
    places: NDArray[np.int32],
    positions: NDArray[np.int64],
    tables: BlockTables,
    slots: NDArray[np.int64],
    of_row: NDArray[np.int64],
    size: int,
) -> NDArray[np.int32]:
    """Into places [rows] where rows at `positions` of the runs `of_row` lie in the cache; the block tables of `slots`
    [runs], as wide as these need."""
    block, offset = np.divmod(positions, size)
    table = tables.of(slots, int(block.max()) + 1 if len(positions) else 1)
    np.multiply(table[of_row, block], size, out=places)
    places += offset
    return table


def _of_sampled(meta: AttentionMeta, shape: StepShape) -> AttentionMeta:
    """Of the sampled rows alone: `meta` itself in a step that samples all."""
    if shape.sampled_ends is shape.row_ends:
        return meta
    rows = shape.group_sampled
    positions, slots, run_of_row = meta.positions[rows], meta.slots[rows], meta.run_of_row[rows]
    return AttentionMeta(positions, slots, run_of_row, meta.block_tables, shape.sampled_ends)


def _sources(
    group: GroupPlan, slots: NDArray[np.int64], shape: StepShape
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each row: the slot whose last sampled id it takes, or -1, and the planned id."""
    from_slot = slots[shape.run_of_row]
    tokens = np.zeros(len(from_slot), np.int64)
    for run, end in zip(group.runs, shape.row_ends[len(group.decodes) :], strict=True):
        if run.ids:
            from_slot[end - run.count : end], tokens[end - run.count : end] = -1, run.ids
    return from_slot, tokens


def _ids(from_slot: NDArray[np.int64], tokens: NDArray[np.int64], last_ids: Tensor) -> Tensor:
    packed = _to(np.stack((tokens, from_slot)), last_ids.device)
    return torch.where(packed[1] >= 0, last_ids[packed[1].clamp(min=0)], packed[0])


def _to(array: NDArray[np.generic], device: torch.device) -> Tensor:
    found = torch.from_numpy(array if array.flags.writeable else array.copy())
    return found if device.type == "cpu" else found.to(device)
