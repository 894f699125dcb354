"""The memory that graphs of steps read, and how a step's inputs get there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta
from weft.model.models.decoder import Batch
from weft.parallel.layout.rows import RowTable
from weft.runtime.worker.tensors.inputs import BlockTables, put_places

Column = NDArray[np.int64]


class DecodeMemory:
    """Of steps of decoding rows alone: rows of int32 (positions, places in the cache, slots) and a block table for
    each, one after the other, so that a step's go to the device in one copy. `width`: blocks of a table."""

    def __init__(self, slots: int, width: int, device: torch.device) -> None:
        numbers = slots * (3 + width)
        self._host = torch.zeros(numbers, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._there = torch.zeros(numbers, dtype=torch.int32, device=device)
        self._each = torch.arange(slots, dtype=torch.int32, device=device)
        self._before_tables, self._width = 3 * slots, width
        whole: NDArray[np.int32] = self._host.numpy()
        self._rows, self._tables = whole[: 3 * slots].reshape(3, slots), whole[3 * slots :].reshape(slots, width)

    def take(
        self, slots: Column, positions: Column, tables: BlockTables, of_row: Column, block_size: int, count: int
    ) -> None:
        """A step of these rows, row i of run of_row[i] = i, in a graph of `count`."""
        rows = len(slots)
        self._rows[0, :rows], self._rows[2, :rows] = positions, slots
        table = put_places(self._rows[1, :rows], positions, tables, slots, of_row, block_size)
        self._rows[:, rows:count] = 0  # the null block's
        self._tables[:rows, : table.shape[1]] = table
        end = self._before_tables + count * self._width
        self._there[:end].copy_(self._host[:end], non_blocking=True)

    def meta(self, count: int) -> AttentionMeta:
        """Of so many rows, each a run."""
        rows, tables = self._there[: self._before_tables].view(3, -1), self._there[self._before_tables :]
        ends = tuple(range(1, count + 1))
        each = self._each[:count]
        return AttentionMeta(rows[0, :count], rows[1, :count], each, tables.view(-1, self._width)[:count], ends)

    def slots(self, count: int) -> Tensor:
        """int64 [count], made anew."""
        return self._there[: self._before_tables].view(3, -1)[2, :count].long()


class PromptMemory:
    """Of steps with prompts: at most `rows` rows of at most `slots` runs, of which at most as many are sampled."""

    def __init__(self, slots: int, rows: int, width: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._ids, self._rows = zeros(rows, 1, dtype=torch.int64), zeros(3, rows)
        """`_rows`: positions, places in the cache, and runs, -1 where a row is left over."""
        self._tables = zeros(slots, width)
        self._sampled, self._sampled_rows = zeros(slots + 1, dtype=torch.int64), zeros(3, slots + 1)
        """Numbers of the rows that are sampled, and what `_rows` has of them."""

    def fits(self, batch: Batch) -> bool:
        """Whether there is room for it."""
        rows, sampled, (runs, blocks) = len(batch.ids), len(batch.sampled_rows), batch.meta.block_tables.shape
        slots, width = self._tables.shape
        return 0 < rows <= len(self._ids) and runs <= slots and sampled <= slots and blocks <= width

    def take(self, batch: Batch, count: int) -> None:
        """A batch that fits, in a graph of `count` rows."""
        meta, rows, tables = batch.meta, len(batch.ids), batch.meta.block_tables
        self._ids[:rows].copy_(batch.ids)
        _put(self._rows, meta)
        self._rows[:2, rows:count].zero_()
        self._rows[2, rows:count].fill_(-1)
        self._tables[: tables.shape[0], : tables.shape[1]].copy_(tables)
        self._sampled.zero_()  # a smaller graph has no row of a larger one's number
        self._sampled[: len(batch.sampled_rows)].copy_(batch.sampled_rows)
        self._sampled_rows.zero_()
        _put(self._sampled_rows, batch.sampled_meta)

    def batch(self, count: int) -> Batch:
        """Of so many rows. As many sampled ones as there are rows would be taken for all of them: then one more."""
        sampled = len(self._tables) + (len(self._tables) == count)
        meta = self._meta(self._rows[:, :count], (count,))
        sampled_meta = self._meta(self._sampled_rows[:, :sampled], tuple(range(1, sampled + 1)))
        tables = RowTable((count,)), RowTable((sampled,))
        return Batch(self._ids[:count], meta, *tables, self._sampled[:sampled], sampled_meta)

    def _meta(self, rows: Tensor, row_ends: tuple[int, ...]) -> AttentionMeta:
        return AttentionMeta(rows[0], rows[1], rows[2], self._tables, row_ends)


def _put(rows: Tensor, meta: AttentionMeta) -> None:
    """Into the first columns of `rows`."""
    for target, source in zip(rows, (meta.positions, meta.slots, meta.run_of_row), strict=True):
        target[: len(source)].copy_(source)
