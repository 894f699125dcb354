"""Shapes of decode steps that Python ran last: steps that have one of them need no Python.

Without pipeline stages decode steps with the same counts of rows follow one another. With stages batches take turns,
and their sizes differ by one at most."""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.compute.native.runtime_records import DecodeShapeRecord, FollowingRecord
from weft.model.models.decoder import Batch
from weft.model.program.build import RankProgram
from weft.runtime.worker.tensors.step_shape import StepShape

MOST = 4


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """`shape`; the batch of its steps, whose inputs are made when they run; and `chosen_by` of `shape` for C++."""

    shape: StepShape
    batch: Batch
    chosen_by: NDArray[np.int64]


class DecodeShapes:
    """The `MOST` shapes that came last, of rank `stage_rank` of its stage."""

    def __init__(self, stage_rank: int) -> None:
        self._rank = stage_rank
        self._shapes = deque[tuple[DecodeShape, DecodeShapeRecord, object]](maxlen=MOST)
        """Each with its record, and what that refers to."""
        self._records = (DecodeShapeRecord * MOST)()

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, number: int) -> DecodeShape:
        return self._shapes[number][0]

    def clear(self) -> None:
        """Their batches are not valid any more."""
        self._shapes.clear()

    def find(self, shape: StepShape) -> DecodeShape | None:
        """Such a shape, if it is here."""
        return next((each for each, *_ in self._shapes if each.shape is shape), None)

    def add(self, shape: DecodeShape, program: RankProgram) -> None:
        """The shape of the step that `program` has just run."""
        of_ranks, (first, end) = np.array(shape.shape.rows.rows, np.int64), shape.shape.own
        record = DecodeShapeRecord(
            step=program.program.counts(),
            of_ranks=of_ranks.ctypes.data,
            rows=len(shape.shape.run_of_row),
            own_first=first,
            own_count=end - first,
            rows_of=shape.chosen_by.ctypes.data,
            counted=int(of_ranks[self._rank]),
        )
        self._shapes.append((shape, record, (of_ranks, program.program.kept)))
        self._records = (DecodeShapeRecord * MOST)(*(each for _, each, _ in self._shapes))

    def hand_to(self, following: FollowingRecord) -> None:
        """For the steps that follow."""
        following.shapes, following.count = ctypes.addressof(self._records), len(self._shapes)
