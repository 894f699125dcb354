"""Row tables: how many rows every rank of a stage owns in one step. Pure numbers, from the step plan alone.

A *run* is the rows that one rank owns: run r belongs to rank r, runs follow each other in rank order, so a
block of ranks owns a contiguous interval of rows. Any run may be empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from weft.base.errors import WeftError
from weft.parallel.layout.splits import even_splits

if TYPE_CHECKING:  # layouts are read without NumPy
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RowTable:
    """rows[r]: rows owned by rank r of the stage."""

    rows: tuple[int, ...]
    starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(accumulate(self.rows, initial=0)))

    def start(self, run: int) -> int:
        """First row of a run, counted over the stage; start(len(rows)) is the number of all rows."""
        return self.starts[run]

    def count(self, lo: int, hi: int) -> int:
        """Rows in the runs [lo, hi)."""
        return self.starts[hi] - self.starts[lo]


@dataclass(frozen=True, slots=True)
class KVOwners:
    """Which rank keeps the keys and values of a position: KV block b of a request, of `block_size` positions, belongs
    to owner b mod (cp * kv_split). Owners are numbered by cp, then inside the split."""

    cp: int
    kv_split: int
    block_size: int

    @property
    def count(self) -> int:
        """How many owners there are."""
        return self.cp * self.kv_split

    @property
    def span(self) -> int:
        """Positions of one block of every owner: a block of the scheduler."""
        return self.count * self.block_size

    def owner(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The owner of each position."""
        return positions // self.block_size % self.count

    def cp_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The attention block, of those of a dp group, that computes the row of each position: its owner's."""
        return self.owner(positions) // self.kv_split


def row_table(group_rows: Iterable[int], tp: int) -> RowTable:
    """group_rows[g]: rows of attention block g; cut evenly over its tp ranks, the first take the remainder."""
    return RowTable(tuple(hi - lo for rows in group_rows for lo, hi in even_splits(rows, tp)))


def sampled_table(
    sampled_of_group: Sequence[Sequence[int]], table: RowTable, tp: int
) -> tuple[RowTable, tuple[tuple[int, ...], ...]]:
    """The table of sampled rows, and per rank the offsets of its sampled rows inside its own run.

    sampled_of_group[g]: ascending row numbers inside attention block g. A sampled row stays with the owner of its
    row, so the sampled rows of a block, in rank order, are in the order given. WeftError where rows do not ascend or
    are not the block's.
    """
    offsets: list[tuple[int, ...]] = []
    for group, sampled in enumerate(sampled_of_group):
        offsets += _deal_sampled(sampled, table, group * tp, tp)
    return RowTable(tuple(map(len, offsets))), tuple(offsets)


def sampled_among(offsets: Sequence[Sequence[int]], table: RowTable, lo: int, hi: int) -> tuple[int, ...]:
    """Numbers of the sampled rows among all rows of the runs [lo, hi); `offsets` as `sampled_table` gives them."""
    return tuple(table.start(run) - table.start(lo) + offset for run in range(lo, hi) for offset in offsets[run])


def _deal_sampled(sampled: Sequence[int], table: RowTable, first: int, tp: int) -> list[tuple[int, ...]]:
    base = table.start(first)
    if any(a >= b for a, b in zip(sampled, sampled[1:], strict=False)):
        raise WeftError(f"sampled rows of the attention block at rank {first} do not ascend: {list(sampled)}")
    if sampled and not 0 <= sampled[0] <= sampled[-1] < table.count(first, first + tp):
        raise WeftError(f"sampled rows of the attention block at rank {first} are not its rows: {list(sampled)}")
    runs, at = [], 0
    for rank in range(first, first + tp):
        lo, hi = table.start(rank) - base, table.start(rank + 1) - base
        end = at
        while end < len(sampled) and sampled[end] < hi:
            end += 1
        runs.append(tuple(row - lo for row in sampled[at:end]))
        at = end
    return runs
