"""What follows from the counts of a step alone: how many rows each request has, and which rank has which of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.base.errors import WeftError
from weft.compute.ops.attention import KeyShare
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Placement
from weft.parallel.layout.rank_plans import GroupCounts, RowsOfBlocks, every_run, rows_of_blocks, sampled_rows_of
from weft.parallel.layout.rows import KVOwners, RowTable, sampled_among


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a rank must know to place rows: its layout, number, block size (tokens that a block of its cache has),
    device, and where the residual stream lies."""

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
        return self.stage_rank // self.layout.group_size

    @property
    def cp(self) -> int:
        """Number of this rank's attention block among those of its group."""
        return self.stage_rank % self.layout.group_size // self.layout.attention.tp

    @property
    def position(self) -> int:
        """This rank's position inside its attention block."""
        return self.stage_rank % self.layout.attention.tp

    @property
    def owners(self) -> KVOwners:
        """Which rank keeps which positions of a request."""
        attention = self.layout.attention
        return KVOwners(attention.cp, attention.kv_split, self.block_size)

    @property
    def share(self) -> KeyShare | None:
        """The keys of a request that this rank keeps; None: all."""
        split, count = self.layout.attention.kv_split, self.layout.kv_owners
        return KeyShare(self.cp * split + self.position % split, count) if count > 1 else None


@dataclass(frozen=True, slots=True)
class BlockRows:
    """With cp, rows of the group by the attention block that computes them, on the device: numbers of a block's rows in
    the plan's order (`rows_of`, `sampled_of` among the sampled ones), and where each row of the plan is among those of
    one block after the other (`order`, `sampled_order`). In that order neighbours of one run are a segment: the ends of
    segments, and of their sampled rows, cumulative as of `row_ends`, and `run_of_segment`."""

    rows_of: tuple[Tensor, ...]
    sampled_of: tuple[Tensor, ...]
    order: Tensor
    sampled_order: Tensor
    segment_ends: tuple[int, ...]
    sampled_segment_ends: tuple[int, ...]
    run_of_segment: Tensor

    @classmethod
    def of(
        cls,
        blocks: RowsOfBlocks,
        run_of_row: NDArray[np.int64],
        sampled_rows: NDArray[np.int64],
        device: torch.device,
    ) -> BlockRows:
        """`run_of_row`: of each row of the group, `sampled_rows`: numbers of its sampled rows."""
        numbers, sampled = np.concatenate(blocks.rows_of), np.concatenate(blocks.sampled_of)
        rows_of, sampled_of = (
            tuple(to_device(own, device) for own in each) for each in (blocks.rows_of, blocks.sampled_of)
        )
        runs = run_of_row[numbers]
        begins = piece_begins(numbers, runs)
        segment_of_row = np.empty(len(numbers), np.int64)
        segment_of_row[numbers] = np.cumsum(begins) - 1

        def ends_of(segments: NDArray[np.int64]) -> tuple[int, ...]:
            return tuple(np.cumsum(np.bincount(segments, minlength=int(begins.sum()))).tolist())

        return cls(
            rows_of,
            sampled_of,
            to_device(np.argsort(numbers), device),
            to_device(np.argsort(sampled), device),
            ends_of(segment_of_row),
            ends_of(segment_of_row[sampled_rows[sampled]]),
            to_device(runs[begins], device),
        )


@dataclass(frozen=True, slots=True)
class StepShape:
    """What follows from the counts of a step alone. `run_of_row` and `within`: of each row of the group, its run and
    its number in it; `row_ends`: cumulative rows of the runs; `group_sampled` and `sampled_of_group`: numbers of the
    group's sampled rows, on the device and on the host, `sampled_ends`: their `row_ends`, the same object where all
    rows are sampled; `chosen_by`: sampled rows of each rank of the attention block; `blocks`: with cp, which of the
    group's rows each of its attention blocks has; the rest as in `Batch` and `StepInputs`."""

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
    sampled_of_group: NDArray[np.int64]
    blocks: BlockRows | None = None


def shape_of(
    counts: GroupCounts, rows: tuple[int, ...], sampled: tuple[int, ...], cp_of: bytes, geometry: Geometry
) -> StepShape:
    """For the runs of this rank's group; `rows` and `sampled` of every rank of the stage as in `RankPlan`, `cp_of` as
    of `cp_of_rows`. WeftError: they are not those of the group."""
    tp, cp, own = geometry.layout.attention.tp, geometry.layout.attention.cp, every_run(counts)
    table, of_all = RowTable(rows), RowTable(sampled or rows)
    found, of_group = rows_of_blocks(counts, tp, cp, cp_of), geometry.group * tp * cp
    in_tables = [each.rows[of_group : of_group + tp * cp] for each in (table, of_all)]
    sizes = np.array([count for count, _, _ in own], np.int64)
    if in_tables != [found.rows.rows, found.sampled.rows]:
        raise WeftError(
            f"attention-dp group {geometry.group} has {sizes.sum()} rows, on its ranks {found.rows.rows} and"
            f" {found.sampled.rows} sampled ones; the step's tables have {in_tables[0]} and {in_tables[1]}"
        )
    first = geometry.cp * tp
    of_block, offsets = RowTable(found.rows.rows[first : first + tp]), found.offsets[first : first + tp]
    ends = np.cumsum(sizes)
    run_of_row = np.repeat(np.arange(len(own)), sizes)
    row_ends = tuple(ends.tolist())
    sampled_of_group = np.asarray(sampled_rows_of(own), np.int64)
    sampled_ends = tuple(np.cumsum([targets + sample for _, sample, targets in own]).tolist())

    def among_block_of(size: int) -> Tensor:
        lo = geometry.position // size * size
        return to_device(np.asarray(sampled_among(offsets, of_block, lo, lo + size), np.int64), geometry.device)

    return StepShape(
        rows=table,
        sampled=of_all,
        sampled_rows=among_block_of(geometry.stream.size),
        own=(found.sampled.start(first + geometry.position), found.sampled.start(first + geometry.position + 1)),
        chosen_by=found.sampled.rows[first : first + tp],
        run_of_row=run_of_row,
        within=np.arange(len(run_of_row)) - np.repeat(ends - sizes, sizes),
        run_of_row_there=to_device(run_of_row.astype(np.int32), geometry.device),
        row_ends=row_ends,
        group_sampled=to_device(sampled_of_group, geometry.device),
        sampled_ends=row_ends if sampled_ends == row_ends else sampled_ends,
        sampled_of_group=sampled_of_group,
        blocks=BlockRows.of(found, run_of_row, sampled_of_group, geometry.device) if cp > 1 else None,
    )


def piece_begins(numbers: NDArray[np.int64], runs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each row, whether it does not follow the row before it: in the same run, with the next number."""
    begins = np.ones(len(numbers), np.bool_)
    begins[1:] = (np.diff(numbers) != 1) | (np.diff(runs) != 0)
    return begins


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    found = torch.from_numpy(array if array.flags.writeable else array.copy())
    return found if device.type == "cpu" else found.to(device)
