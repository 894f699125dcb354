"""Steps of a rank on a CUDA device as graphs: captured for a few numbers of rows, replayed whole.

Two kinds: steps of decoding rows alone, whose inputs go to the device in one copy, and steps with prompts. A step runs
in the next larger graph of its kind; the rows that are left over write to the null block, and their results are not
read. What a graph reads lies where it lay when it was captured. The largest logits are in it, too, for most rows want
nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weft.base.step.plan import RankPlan
from weft.compute.ops.attention import KVCache
from weft.compute.sampling.draw import largest
from weft.compute.sampling.sampled_rows import sampled_rows
from weft.model.models.decoder import Batch, Decoder
from weft.runtime.worker.tensors.graph_inputs import DecodeMemory, PromptMemory
from weft.runtime.worker.tensors.inputs import InputBuilder, StepInputs
from weft.runtime.worker.tensors.step_shape import Geometry, StepShape, shape_of

POSITIONS = 16384
"""Longest context of a graph: one that has room for longer ones starts programs for all of it, which mostly find
nothing to do."""
PROMPT_COUNTS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
LAYER_S, DEVICE_FLOPS = 0.4e-3, 4e14
"""What a host needs to start a layer's operations one by one (`benchmarks/device_decode.py`: 0.41 and 0.46 ms on an
H200), and what a device is taken to multiply meanwhile."""


def row_counts(most: int) -> Iterator[int]:
    """How many rows graphs have: 1, 2, 4, 8, then by 8 to 64, by 32 to 256, by 128 beyond, and `most`."""
    count = 1
    while count < most:
        yield count
        count += count if count < 8 else 8 if count < 64 else 32 if count < 256 else 128
    yield most


def worthwhile_rows(layers: int, weight_bytes: int) -> int:
    """Rows of 16-bit weights, two operations each, that keep a device busy while a host starts a step's operations:
    beyond, a graph gains nothing, and rows that it fills up cost."""
    return int(layers * LAYER_S * DEVICE_FLOPS / max(weight_bytes, 1))


Step = Callable[[], tuple[Batch, Tensor, Tensor]]
"""Makes a step's batch out of what it reads, and runs it: its logits, and `largest` of them."""
Ran = tuple[Tensor, StepInputs, Tensor]
"""Logits of a step's sampled rows, what sampling must know, and `largest` of them; they hold until the next step."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A step as a graph, and what it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    logits: Tensor
    values: Tensor


class StepGraphs:
    """Of one rank without others. `last_ids` [slots] as of `InputBuilder`; `rows`: most rows of a step with prompts;
    `width`: blocks of the longest context."""

    def __init__(
        self,
        decoder: Decoder,
        caches: Sequence[KVCache],
        geometry: Geometry,
        last_ids: Tensor,
        rows: int,
        width: int,
    ) -> None:
        self._decoder, self._caches, self._geometry, self._last_ids = decoder, caches, geometry, last_ids
        slots, device = len(last_ids), geometry.device
        self.decode_counts = tuple(row_counts(slots))
        self.prompt_counts = tuple(count for count in PROMPT_COUNTS if count <= rows)
        self._width = min(width, -(-POSITIONS // geometry.block_size))
        self._decodes = DecodeMemory(slots, self._width, device)
        self._prompts = PromptMemory(slots, max((0, *self.prompt_counts)), self._width, device)
        assert decoder.lm_head is not None
        self._logits = torch.zeros(slots + 1, decoder.lm_head.weight.shape[0], device=device)
        """Of every graph: memory of its own would be a vocabulary's for each row of each."""
        self._graphs: dict[tuple[int, bool], Captured] = {}

    def describe(self) -> str:
        """In words."""
        found = f"{len(self.decode_counts)} CUDA graphs of up to {self.decode_counts[-1]} decoding rows"
        if self.prompt_counts:
            found += f" and {len(self.prompt_counts)} of up to {self.prompt_counts[-1]} rows with prompts"
        return f"{found}, other steps operation by operation"

    def capture(self) -> None:
        """All of them, the largest first: the others find room in its memory."""
        pool = None
        keys = [(count, True) for count in self.prompt_counts] + [(count, False) for count in self.decode_counts]
        for count, prompts in sorted(keys, reverse=True):
            self._graphs[count, prompts] = captured = self._captured(self._step(count, prompts), pool)
            pool = captured.graph.pool()

    def _step(self, count: int, prompts: bool) -> Step:
        if prompts:
            made = partial(self._prompts.batch, count)
        else:  # a shape asks the host, which nothing may while it is captured
            made = partial(self._decode_batch, count, shape_of((count, ()), (count,), (), b"", self._geometry))
        prepared = self._decoder.prepare(made())

        def step() -> tuple[Batch, Tensor, Tensor]:
            batch = made()
            found = self._decoder.forward(batch, self._caches, prepared=prepared)
            logits = self._logits[: len(found)].copy_(found)
            return batch, logits, largest(logits)

        return step

    def _decode_batch(self, count: int, shape: StepShape) -> Batch:
        meta = self._decodes.meta(count)
        ids = self._last_ids.index_select(0, self._decodes.slots(count)).unsqueeze(1)
        return Batch(ids, meta, shape.rows, shape.sampled, shape.sampled_rows, meta)

    def _captured(self, step: Step, pool: Any) -> Captured:
        step()  # compiles what is not compiled yet
        torch.cuda.synchronize(self._geometry.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            found = step()
        return Captured(graph, *found)

    def decode(self, inputs: InputBuilder, plan: RankPlan) -> Ran | None:
        """Runs a step of streams alone; None: it has others, or no graph has room, and `inputs` have not learnt of
        it."""
        group = plan.group
        decodes, size = group.decodes.array(), self._geometry.block_size
        rows = decodes.shape[1]
        if group.runs or not rows or not self._graphs or int(decodes[1].max()) >= self._width * size:
            return None
        shape = inputs.learn(plan)
        count = self.decode_counts[bisect_left(self.decode_counts, rows)]
        self._decodes.take(decodes[0], decodes[1], inputs.tables, shape.run_of_row, size, count)
        captured = self._graphs[count, False]
        captured.graph.replay()
        batch = replace(captured.batch, rows=shape.rows, sampled=shape.sampled)
        learnt = StepInputs(batch, sampled_rows(decodes, ()), shape.own, None, self._decodes.slots(rows))
        return captured.logits[:rows], learnt, captured.values[:rows]

    def prompts(self, inputs: StepInputs) -> Ran | None:
        """Runs a step of any rows; None: no graph has room."""
        batch = inputs.batch
        if not self._graphs or not self._prompts.fits(batch):
            return None
        count = self.prompt_counts[bisect_left(self.prompt_counts, len(batch.ids))]
        self._prompts.take(batch, count)
        captured, sampled = self._graphs[count, True], len(batch.sampled_rows)
        captured.graph.replay()
        return captured.logits[:sampled], inputs, captured.values[:sampled]
