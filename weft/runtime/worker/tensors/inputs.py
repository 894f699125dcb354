"""From a step plan to one rank's tensors. Knows the layout's rows and the plan's records; no scheduler and no module.

Host arrays are built per step with NumPy and moved in a few copies, however many requests the step carries. What does
not change between steps of one shape (how many rows each request has, and which of them are sampled) is worked out
once: decode steps mostly follow one another with the same shape. Tables of blocks are kept from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.base.step.plan import GroupPlan, RankPlan
from weft.compute.ops.attention import AttentionMeta
from weft.compute.sampling.sampled_rows import SampledRows, sampled_rows
from weft.model.models.decoder import Batch
from weft.model.models.kv_exchange import GroupRows
from weft.parallel.layout.rank_plans import counts_of, cp_of_rows
from weft.runtime.worker.tensors.gathered_keys import Contexts, KeyGathering
from weft.runtime.worker.tensors.step_shape import Geometry, StepShape, shape_of, to_device

SHAPES = 64
"""Shapes of steps that are kept."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """`batch` for the decoder; `sampled`: the group's sampled rows; `own`: which of them lie on this rank, [lo, hi) in
    the order of ranks; `drawn`: numbers of those that give a token (None: all), and `slots` [tokens] where it belongs,
    on the device. `order`: where each sampled row is in the order of ranks, None: at its own place."""

    batch: Batch
    sampled: SampledRows
    own: tuple[int, int]
    drawn: Tensor | None
    slots: Tensor
    order: Tensor | None = None

    @property
    def own_numbers(self) -> Sequence[int]:
        """Of the sampled rows that lie on this rank."""
        numbers = range(*self.own)
        if self.order is None:
            return numbers
        plan = torch.argsort(self.order).tolist()
        return [plan[number] for number in numbers]

    @property
    def own_sampled(self) -> SampledRows:
        """The sampled rows that lie on this rank."""
        if self.order is None:
            return self.sampled.part(*self.own)
        return self.sampled.take(np.asarray(self.own_numbers, np.int64))


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

    def __init__(self, geometry: Geometry, last_ids: Tensor, width: int, gathering: KeyGathering | None = None) -> None:
        """`gathering`: of keys for rows of prompts, where ranks share the KV cache of a request."""
        self._geometry, self._last_ids, self._gathering = geometry, last_ids, gathering
        self.tables = BlockTables(len(last_ids), width)
        self._shape = lru_cache(SHAPES)(
            lambda counts, rows, sampled, cp_of: shape_of(counts, rows, sampled, cp_of, geometry)
        )

    def build(self, plan: RankPlan) -> StepInputs:
        """The step's inputs; the block tables take in what the plan has."""
        group, device = plan.group, self._geometry.device
        shape = self.learn(plan)
        decodes = group.decodes.array()
        slots = _column(decodes[0], [run.slot for run in group.runs])
        starts = _column(decodes[1], [run.start for run in group.runs])
        meta, positions = _meta(starts, self.tables, slots, shape, self._geometry)
        sampled = sampled_rows(decodes, group.runs)
        drawn = None if sampled.targets is None else (sampled.positions >= 0).nonzero()[0]
        there = to_device(sampled.slots if drawn is None else sampled.slots[drawn], device)
        if group.runs:
            ids = _ids(*_sources(group, slots, shape), self._last_ids)
        else:
            ids = self._last_ids.index_select(0, there)
        batch = _batch(ids.unsqueeze(1), meta, shape, self._geometry)
        if self._gathering is not None and group.runs:
            ends = starts + np.diff(shape.row_ends, prepend=0)
            contexts = Contexts(ends, self.tables.rows[slots], len(group.decodes))
            batch = _with_keys(batch, self._gathering, contexts, positions, shape)
        order = None if shape.blocks is None else shape.blocks.sampled_order
        return StepInputs(batch, sampled, shape.own, None if drawn is None else to_device(drawn, device), there, order)

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
        cp_of = cp_of_rows(group, self._geometry.owners)
        return self._shape(counts_of(group), plan.rows, plan.sampled, cp_of)


def _column(decodes: NDArray[np.int64], runs: list[int]) -> NDArray[np.int64]:
    return np.concatenate((decodes, np.array(runs, np.int64))) if runs else decodes


def _batch(ids: Tensor, meta: AttentionMeta, shape: StepShape, geometry: Geometry) -> Batch:
    """`ids` and `meta` of the group's rows."""
    sampled, blocks = _of_sampled(meta, shape), shape.blocks
    tables = shape.rows, shape.sampled, shape.sampled_rows
    if geometry.share is None:
        return Batch(ids, meta, *tables, sampled)
    if blocks is None:
        return Batch(ids, meta, *tables, sampled, GroupRows(meta), GroupRows(sampled))
    own, own_sampled = blocks.rows_of[geometry.cp], blocks.sampled_of[geometry.cp]
    tables_there = meta.block_tables[blocks.run_of_segment]
    segments = _segments(meta, blocks.rows_of, blocks.segment_ends, tables_there)
    of_sampled = _segments(sampled, blocks.sampled_of, blocks.sampled_segment_ends, tables_there)
    return Batch(
        ids[own],
        _rows_of(meta, own),
        *tables,
        _rows_of(sampled, own_sampled),
        GroupRows(meta, blocks.rows_of, blocks.order, segments=segments),
        GroupRows(sampled, blocks.sampled_of, blocks.sampled_order, segments=of_sampled),
    )


def _with_keys(
    batch: Batch, gathering: KeyGathering, contexts: Contexts, positions: NDArray[np.int64], shape: StepShape
) -> Batch:
    """`batch` with the rows apart that gather keys; `positions` of the group's rows."""
    assert batch.group is not None and batch.sampled_group is not None
    group = gathering.split(batch.group, positions, shape.run_of_row, contexts)
    if shape.sampled_ends is shape.row_ends:
        return replace(batch, group=group, sampled_group=group)
    sampled = shape.sampled_of_group
    of_sampled = gathering.split(batch.sampled_group, positions[sampled], shape.run_of_row[sampled], contexts)
    return replace(batch, group=group, sampled_group=of_sampled)


def _segments(
    meta: AttentionMeta, rows_of: Sequence[Tensor], ends: tuple[int, ...], block_tables: Tensor
) -> AttentionMeta:
    """`meta` in the order of ranks, where runs are segments."""
    rows = torch.cat(tuple(rows_of))
    return AttentionMeta(meta.positions[rows], meta.slots[rows], meta.run_of_row[rows], block_tables, ends, meta.share)


def _rows_of(meta: AttentionMeta, rows: Tensor) -> AttentionMeta:
    """Of an attention block's rows alone: where their keys and values go."""
    return AttentionMeta(meta.positions[rows], meta.slots[rows], meta.run_of_row[rows], meta.block_tables, ())


def _meta(
    starts: NDArray[np.int64], tables: BlockTables, slots: NDArray[np.int64], shape: StepShape, geometry: Geometry
) -> tuple[AttentionMeta, NDArray[np.int64]]:
    """Of the group's rows, and their positions; starts, slots [runs]: decode rows count as runs."""
    of_row, owners = shape.run_of_row, geometry.owners
    positions = starts
    if len(of_row) > len(starts):
        positions = positions[of_row] + shape.within
    packed = np.empty((2, len(of_row)), np.int32)
    packed[0] = positions
    table = put_places(packed[1], positions, tables, slots, of_row, owners.span)
    if (share := geometry.share) is not None:
        packed[1] = packed[1] // owners.span * owners.block_size + positions % owners.block_size
        # what other owners keep goes to the null block
        packed[1, owners.owner(positions) != share.owner] = 0
    there = to_device(packed, geometry.device)
    run_of_row, blocks = shape.run_of_row_there, to_device(table, geometry.device)
    return AttentionMeta(there[0], there[1], run_of_row, blocks, shape.row_ends, share), positions


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
    return AttentionMeta(positions, slots, run_of_row, meta.block_tables, shape.sampled_ends, meta.share)


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
    packed = to_device(np.stack((tokens, from_slot)), last_ids.device)
    return torch.where(packed[1] >= 0, last_ids[packed[1].clamp(min=0)], packed[0])
