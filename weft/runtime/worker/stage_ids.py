"""Sampled ids between the last pipeline stage, which samples, and the first, which embeds them in the next step.

Steps that follow one another in C++ (`compute/native/runtime/stage_ids.h`) use the same queue."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.base.errors import WeftError
from weft.base.step.plan import GroupResult
from weft.compute.native.runtime_records import StageIdsRecord
from weft.compute.sampling.sampled_rows import SampledRows
from weft.model.models.pipeline import IDS_DTYPE, PipelineStage
from weft.model.program.build import RankProgram
from weft.parallel.layout.rows import RowTable


class SampledIds:
    """One rank's side of the exchange. `last_ids` [slots]: the last id of each slot; only the first stage reads it.
    `steps`: most in flight; `rows`: most sampled rows of a group in a step. `record` is what C++ gets."""

    def __init__(self, pipeline: PipelineStage, last_ids: Tensor, steps: int, rows: int) -> None:
        self._pipeline, self._last_ids = pipeline, last_ids
        takes, gives = pipeline.first and not pipeline.last, pipeline.last and not pipeline.first
        self._queue = np.zeros((steps + 1 if takes else 1, 2 + rows), np.int64)
        self._values = np.zeros((rows, 2))
        self.record = StageIdsRecord(
            takes=int(takes),
            gives=int(gives),
            queue=self._queue.ctypes.data,
            room=len(self._queue),
            width=2 + rows,
            values=self._values.ctypes.data,
        )

    def join(self, program: RankProgram, rank: int) -> None:
        """Lets C++ exchange ids as well, on rank `rank` of the world."""
        if (peer := self._pipeline.ids_peer) is not None:
            pair = min(rank, peer), max(rank, peer)
            self.record.group, (self.record.low, self.record.high) = program.group_of(pair), pair

    def expect(self, index: int, sampled: SampledRows) -> None:
        """Step `index` was sent to the next stage; the last stage will send the ids of its sampled rows."""
        record = self.record
        if not record.takes:
            return
        if record.end - record.first == record.room:
            raise WeftError(f"step {index}: the ids of {record.room} steps have not been taken")
        step = self._queue[record.end % record.room]
        step[:2] = index, len(sampled)
        step[2 : 2 + len(sampled)] = np.where(sampled.positions >= 0, sampled.slots, -1)
        record.end += 1

    def take(self, below: int) -> None:
        """Receives the ids of all steps before step `below` that have not arrived."""
        record = self.record
        while record.first < record.end and (step := self._queue[record.first % record.room])[0] < below:
            self._take(step[2 : 2 + step[1]])
            record.first += 1

    def take_all(self) -> None:
        """Receives the ids of all steps that are expected."""
        self.take(np.iinfo(np.int64).max)

    def _take(self, slots: NDArray[np.int64]) -> None:
        """Of the next step: the slots of its sampled rows."""
        values = self._pipeline.received_ids(len(slots))[:, 0].to(torch.int64)
        if (slots < 0).any():
            drawn = (slots >= 0).nonzero()[0]
            slots, values = slots[drawn], values[torch.from_numpy(drawn).to(values.device)]
        self._last_ids.index_copy_(0, torch.from_numpy(slots.copy()).to(values.device), values)

    def send(self, result: GroupResult, sampled: RowTable) -> None:
        """From the last stage, where ids of decode rows were chosen without a tensor of them."""
        if self.record.gives:
            ids = np.frombuffer(result.ids, np.int64)
            values = torch.ones(len(ids), 2, dtype=IDS_DTYPE)
            values[:, 0] = torch.from_numpy(ids.astype(np.float64))
            self._pipeline.send_ids(values, sampled)
