"""Sampled ids between the last pipeline stage, which samples, and the first, which embeds them in the next step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weft.layout.rows import RowTable
from weft.models.pipeline import IDS_DTYPE, PipelineStage
from weft.step.plan import GroupResult
from weft.worker.tensors.inputs import StepInputs


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A step whose sampled ids have not arrived: its sampled rows; which of them give a token (`drawn`), and the slots
    of these, as in `StepInputs`."""

    index: int
    sampled: RowTable
    drawn: Tensor | None
    slots: Tensor


class SampledIds:
    """One rank's side of the exchange. `last_ids` [slots]: the last id of each slot; only the first stage reads it."""

    def __init__(self, pipeline: PipelineStage, last_ids: Tensor) -> None:
        self._pipeline, self._last_ids = pipeline, last_ids
        self._waiting: deque[_Awaited] = deque()

    def expect(self, index: int, inputs: StepInputs) -> None:
        """Step `index` was sent to the next stage; the last stage will send the ids of its sampled rows."""
        if self._pipeline.first and not self._pipeline.last:
            self._waiting.append(_Awaited(index, inputs.batch.sampled, inputs.drawn, inputs.slots))

    def take(self, below: int) -> None:
        """Receives the ids of all steps before step `below` that have not arrived."""
        while self._waiting and self._waiting[0].index < below:
            self._take(self._waiting.popleft())

    def take_all(self) -> None:
        """Receives the ids of all steps that are expected."""
        while self._waiting:
            self._take(self._waiting.popleft())

    def _take(self, step: _Awaited) -> None:
        values = self._pipeline.received_ids(step.sampled)
        drawn = values if step.drawn is None else values[step.drawn]
        self._last_ids.index_copy_(0, step.slots, drawn[:, 0].to(torch.int64))

    def send(self, result: GroupResult, sampled: RowTable) -> None:
        """From the last stage, where ids of decode rows were chosen without a tensor of them."""
        if not self._pipeline.first:
            ids = np.frombuffer(result.ids, np.int64)
            values = torch.ones(len(ids), 2, dtype=IDS_DTYPE)
            values[:, 0] = torch.from_numpy(ids.astype(np.float64))
            self._pipeline.send_ids(values, sampled)
