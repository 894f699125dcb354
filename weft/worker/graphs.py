"""Steps of a rank on a CUDA device as graphs: captured for a few numbers of rows, replayed whole.

Two kinds: steps of decoding rows alone, and steps with prompts of at most `ROWS` rows (with more, a device is busy for
as long as the host needs to start its operations one by one). A step runs in the next larger graph of its kind; the
rows that are left over write to the null block, and nobody reads what comes of them. What a graph reads lies where it
lay when it was captured. The largest logits are in it, too, for most rows want nothing else. Knows no scheduler.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.layout.rows import RowTable
from weft.models.decoder import Batch, Decoder
from weft.ops.base import AttentionMeta, KVCache
from weft.ops.draw import largest
from weft.worker.inputs import Geometry, shape_of

POSITIONS = 16384
"""Longest context of a graph: one that has room for longer ones starts programs for all of it, which mostly find
nothing to do."""
ROWS = 512
"""Most rows of a step with prompts."""


def row_counts(most: int) -> Iterator[int]:
    """How many rows graphs have: 1, 2, 4, 8, then by 8 to 64, by 32 to 256, by 128 beyond, and `most`."""
    count = 1
    while count < most:
        yield count
        count += count if count < 8 else 8 if count < 64 else 32 if count < 256 else 128
    yield most


def prompt_counts(most: int) -> tuple[int, ...]:
    """The same where there are prompts."""
    return tuple(count for count in (16, 32, 64, 96, 128, 192, 256, 384, ROWS) if count <= most)


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    logits: Tensor
    values: Tensor


class StepGraphs:
    """Of one rank without others. `slots`: most runs; `rows`: most rows of a step; `width`: blocks of the longest
    context."""

    def __init__(
        self, decoder: Decoder, caches: Sequence[KVCache], geometry: Geometry, slots: int, rows: int, width: int
    ) -> None:
        self._decoder, self._caches, self._geometry = decoder, caches, geometry
        self.decode_counts, self.prompt_counts = tuple(row_counts(slots)), prompt_counts(rows)
        self._width = min(width, -(-POSITIONS // geometry.block_size))
        most, device = max(slots, *self.prompt_counts, 1), geometry.device

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._ids, self._rows = zeros(most, 1, dtype=torch.int64), zeros(3, most)
        """`_rows`: positions, places in the cache, and runs, -1 where a row is left over."""
        self._tables = zeros(slots, self._width)
        self._sampled, self._sampled_rows = zeros(slots + 1, dtype=torch.int64), zeros(3, slots + 1)
        """Of a step with prompts, numbers of the rows that are sampled, and what `_rows` has of them."""
        self._each = torch.arange(slots, dtype=torch.int32, device=device)
        self._graphs: dict[tuple[int, bool], _Captured] = {}

    def describe(self) -> str:
        """In words."""
        found = f"{len(self.decode_counts)} CUDA graphs of up to {self.decode_counts[-1]} decoding rows"
        if self.prompt_counts:
            found += f" and {len(self.prompt_counts)} of up to {self.prompt_counts[-1]} rows with prompts"
        return f"{found}, larger steps operation by operation"

    def capture(self) -> None:
        """All of them, the largest first: the others find room in its memory."""
        pool = None
        keys = [(count, True) for count in self.prompt_counts] + [(count, False) for count in self.decode_counts]
        for count, prompts in sorted(keys, reverse=True):
            batch = self._prompt_batch(count) if prompts else self._decode_batch(count)
            self._graphs[count, prompts] = captured = self._captured(batch, pool)
            pool = captured.graph.pool()

    def _captured(self, batch: Batch, pool: Any) -> _Captured:
        self._forward(batch)  # compiles what is not compiled yet
        torch.cuda.synchronize(self._geometry.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits, values = self._forward(batch)
        return _Captured(graph, logits, values)

    def run(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Logits of the batch's sampled rows, and `largest` of them, which hold until the next run; None: no graph has
        room for it."""
        rows, sampled, (runs, width) = len(batch.ids), len(batch.sampled_rows), batch.meta.block_tables.shape
        decodes = sampled == rows and batch.meta.row_ends == tuple(range(1, rows + 1))
        counts = self.decode_counts if decodes else self.prompt_counts
        if runs > len(self._tables) or width > self._width or sampled > len(self._tables) or not rows:
            return None
        if not self._graphs or not counts or rows > counts[-1]:
            return None
        count = counts[bisect_left(counts, rows)]
        self._take(batch, count)
        if not decodes:
            self._take_sampled(batch)
        captured = self._graphs[count, not decodes]
        captured.graph.replay()
        return captured.logits[:sampled], captured.values[:sampled]

    def _take(self, batch: Batch, count: int) -> None:
        meta, rows = batch.meta, len(batch.ids)
        self._ids[:rows].copy_(batch.ids)
        _put(self._rows, meta)
        self._tables[: meta.block_tables.shape[0], : meta.block_tables.shape[1]].copy_(meta.block_tables)
        if count > rows:
            self._rows[:2, rows:count].zero_()
            self._rows[2, rows:count].fill_(-1)

    def _take_sampled(self, batch: Batch) -> None:
        self._sampled.zero_()  # a smaller graph has no row of a larger one's number
        self._sampled[: len(batch.sampled_rows)].copy_(batch.sampled_rows)
        self._sampled_rows.zero_()
        _put(self._sampled_rows, batch.sampled_meta)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self._decoder.forward(batch, self._caches)
        return logits, largest(logits)

    def _decode_batch(self, count: int) -> Batch:
        """Of so many streams, over the memory that graphs read."""
        shape = shape_of([(count, ())], self._geometry)
        positions, slots = self._rows[0, :count], self._rows[1, :count]
        meta = AttentionMeta(positions, slots, self._each[:count], self._tables[:count], shape.row_ends)
        return Batch(self._ids[:count], meta, shape.rows, shape.sampled, shape.sampled_rows, meta)

    def _prompt_batch(self, count: int) -> Batch:
        """Of so many rows of any runs. As many rows as there are would be taken for sampled ones all: then one more."""
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
