"""Which prompts of a step gather the keys of all owners, where ranks share the KV cache of a request by position.

All from numbers of the plan, which the ranks of a group have alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, KeyShare
from weft.model.models.kv_exchange import GatheredKeys, GroupRows
from weft.parallel.layout.boundaries import KeyGather
from weft.runtime.worker.tensors.step_shape import Geometry, piece_begins, to_device

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Contexts:
    """The requests of a step: of each run `ends`, the length of its context with the step's rows, and its block table
    [runs, width]; `decodes`: how many of the runs are decode rows, which come first."""

    ends: Numbers
    tables: NDArray[np.int32]
    decodes: int


class KeyGathering:
    """Splits the rows of this rank's group by form. `itemsize`: of an activation."""

    def __init__(self, geometry: Geometry, price: KeyGather, itemsize: int) -> None:
        self._geometry, self._price, self._itemsize = geometry, price, itemsize

    def chosen(self, counts: Numbers, contexts: Contexts) -> NDArray[np.bool_]:
        """Of each run, whether its counts[run] rows gather keys: where these are fewer bytes than queries and partial
        outputs. Decode rows never do."""
        size, price = self._geometry.block_size, self._price
        found = np.zeros(len(counts), np.bool_)
        for run in range(contexts.decodes, len(counts)):
            found[run] = price.chosen(int(counts[run]), int(contexts.ends[run]), size, self._itemsize)
        return found

    def split(self, rows: GroupRows, positions: Numbers, run_of_row: Numbers, contexts: Contexts) -> GroupRows:
        """`rows` with those apart whose keys are gathered; `positions` and `run_of_row` of all of them."""
        counts = np.bincount(run_of_row, minlength=len(contexts.ends))
        runs = self.chosen(counts, contexts)
        if not runs.any():
            return rows
        chosen, owners, there = runs[run_of_row], self._geometry.owners, self._to_device
        cp_of = owners.cp_of(positions)
        rest, of_block = (~chosen).nonzero()[0], cp_of == self._geometry.cp
        left = _some(rows.meta, there(rest), np.where(runs, 0, counts))
        own, others = (each[of_block].nonzero()[0] for each in (chosen, ~chosen))
        here, held = chosen & of_block, self._held(contexts.ends * runs)
        keys = GatheredKeys(
            there(own),
            there(others),
            there(np.argsort(np.concatenate((own, others)))),
            there(self._blocks(held, contexts.tables)),
            tuple(held.sum(1).tolist()),
            tuple(self._metas(held, positions[here], run_of_row[here])),
        )
        if rows.order is None:
            return GroupRows(left, keys=keys)
        rows_of = [(cp_of[rest] == block).nonzero()[0] for block in range(owners.cp)]
        return GroupRows(left, tuple(map(there, rows_of)), there(np.argsort(np.concatenate(rows_of))), keys)

    def _held(self, ends: Numbers) -> Numbers:
        """[owners, runs]: how many blocks each owner has of contexts of `ends` positions."""
        owners = self._geometry.owners
        begins = np.arange(owners.count)[:, None] * owners.block_size
        found: Numbers = -(-np.maximum(ends - begins, 0) // owners.span)
        return found

    def _blocks(self, held: Numbers, tables: NDArray[np.int32]) -> Numbers:
        """Those of this rank's cache."""
        assert self._geometry.share is not None
        own = held[self._geometry.share.owner]
        return np.concatenate([table[:count] for table, count in zip(tables, own, strict=True)]).astype(np.int64)

    def _metas(self, held: Numbers, positions: Numbers, run_of_row: Numbers) -> Iterator[AttentionMeta]:
        """Of rows, over what each owner gave: the blocks of the first run, then those of the next, and so on."""
        runs, of_piece, ends = _pieces(positions, run_of_row)
        there = self._to_device
        packed = there(np.stack((positions, of_piece)).astype(np.int32))
        for owner, counts in enumerate(held):
            first, within = 1 + np.cumsum(counts) - counts, np.arange(max(1, counts.max()))
            tables = np.where(within < counts[:, None], first[:, None] + within, 0)[runs].astype(np.int32)
            share = KeyShare(owner, len(held))
            yield AttentionMeta(packed[0], torch.zeros_like(packed[0]), packed[1], there(tables), ends, share)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return to_device(array, self._geometry.device)


def _some(meta: AttentionMeta, rows: Tensor, counts: Numbers) -> AttentionMeta:
    """Of `rows` alone; counts [runs]: how many each run has."""
    positions, slots, run_of_row = meta.positions[rows], meta.slots[rows], meta.run_of_row[rows]
    return AttentionMeta(positions, slots, run_of_row, meta.block_tables, tuple(np.cumsum(counts).tolist()), meta.share)


def _pieces(positions: Numbers, run_of_row: Numbers) -> tuple[Numbers, Numbers, tuple[int, ...]]:
    """Rows at consecutive positions of one run are a piece, which attention takes for a run: the run of each piece, the
    piece of each row, and cumulative rows of the pieces."""
    if not len(positions):
        return run_of_row, run_of_row, ()
    begins = piece_begins(positions, run_of_row)
    ends = (*begins.nonzero()[0][1:].tolist(), len(positions))
    return run_of_row[begins], np.cumsum(begins) - 1, ends
