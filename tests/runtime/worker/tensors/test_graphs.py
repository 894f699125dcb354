"""What graphs of steps read and give, without a device: the captured steps are run anew instead of replayed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.equivalence.harness import MIXED, Workload, checkpoint_at, make_executor, random_prompts, run_workload
from tests.support.exact_model import write_exact
from weft.base.step.plan import NewRequest, RankPlan
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.attention import AttentionMeta
from weft.compute.ops.base import Numerics
from weft.compute.ops.reference.exact_ops import ExactAttention, ExactOps
from weft.compute.ops.reference.paged_attention import Tiles, TorchAttention
from weft.compute.sampling.draw import largest
from weft.compute.sampling.sampled_rows import SampledRows
from weft.compute.sampling.sampler import Sampler
from weft.model.models.decoder import Batch
from weft.parallel.arch import parse_config
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.rows import RowTable
from weft.runtime.worker.runner import Runner
from weft.runtime.worker.tensors.graph_inputs import DecodeMemory, PromptMemory
from weft.runtime.worker.tensors.graphs import Ran, Step, StepGraphs, row_counts, worthwhile_rows
from weft.runtime.worker.tensors.inputs import BlockTables, InputBuilder, StepInputs

LONG = Workload(random_prompts((20, 3, 17, 9), 101), (0, 0, 1, 2), max_tokens=6, budget=24)


@dataclass
class Again:
    """A captured step that is run anew, into the memory of the first time."""

    step: Step
    batch: Batch
    logits: Tensor
    values: Tensor

    @property
    def graph(self) -> Again:
        return self

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        self.values.copy_(self.step()[2])


class Repeated(StepGraphs):
    """Counts the steps that graphs ran, of streams alone and with prompts, and shows logits to the decoder's tap."""

    decoded = prompted = 0

    def _step(self, count: int, prompts: bool) -> Step:
        made = super()._step
        return lambda: made(count, prompts)()  # plain torch prepares by content: anew for each replay

    def _captured(self, step: Step, pool: object) -> Again:  # type: ignore[override]
        return Again(step, *step())

    def decode(self, inputs: InputBuilder, plan: RankPlan) -> Ran | None:
        return self._shown(super().decode(inputs, plan), "decoded")

    def prompts(self, inputs: StepInputs) -> Ran | None:
        return self._shown(super().prompts(inputs), "prompted")

    def _shown(self, ran: Ran | None, name: str) -> Ran | None:
        if ran is not None:
            setattr(self, name, getattr(self, name) + 1)
            self._decoder._show("lm_head", ran[0], self._decoder.boundaries["lm_head.out"].dst)
        return ran


class ByRow(ExactAttention):
    """Attention that takes a row's run from `run_of_row` alone, as a device's kernels do."""

    def prepare(self, meta: AttentionMeta) -> tuple[Any, Tiles | None]:
        count = len(meta.positions)
        tables = meta.block_tables[meta.run_of_row.long().clamp(min=0)]
        each = torch.arange(count, dtype=torch.int32)
        alone = replace(meta, run_of_row=each, block_tables=tables, row_ends=tuple(range(1, count + 1)))
        return super().prepare(alone)


def with_graphs(runner: Runner) -> Repeated:
    ops = ExactOps(Numerics(torch.float32, exact=True), torch.device("cpu"))
    ops.attention_backend = ByRow(TorchAttention())
    runner.decoder.ops = ops
    for layer in runner.decoder.layers:
        layer.attention.ops = ops
    limits = runner.limits
    width = -(-limits.max_model_len // limits.block_size)
    graphs = Repeated(runner.decoder, runner.caches, runner.geometry, runner.last_ids, 32, width)
    graphs.capture()
    runner.graphs = graphs
    return graphs


@pytest.mark.parametrize("work", [MIXED, LONG], ids=["short", "long"])
@pytest.mark.parametrize("variant", ["biased", "qk_norm", "experts", "latent"])
def test_graphs_give_what_single_operations_give(tmp_path: Path, variant: str, work: Workload) -> None:
    path = write_exact(tmp_path, variant)
    layout = resolve({}, 1, num_experts=parse_config(checkpoint_at(path).config).num_experts)
    numerics = Numerics(torch.float32, exact=True)
    wanted = run_workload(make_executor(path, layout, numerics), work)
    executor = make_executor(path, layout, numerics)
    graphs = with_graphs(executor.runners[0])
    found = run_workload(executor, work)
    for one, other in zip(found, wanted, strict=True):
        assert one.tokens == other.tokens
        assert torch.equal(torch.stack(one.logits), torch.stack(other.logits))
    assert graphs.decoded >= 2 and graphs.prompted >= 2


def test_counts_of_rows() -> None:
    assert tuple(row_counts(1)) == (1,)
    assert tuple(row_counts(64)) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
    assert tuple(row_counts(300))[-4:] == (192, 224, 256, 300)


def test_rows_that_are_worth_a_graph() -> None:
    small, large = worthwhile_rows(30, 269 << 20), worthwhile_rows(32, 16 << 30)
    assert large < 512 < 2048 < small
    assert worthwhile_rows(1, 0) > 2048


def test_all_rows_are_sampled_only_where_they_are() -> None:
    """A batch with as many sampled rows as rows stands for one in which each row is sampled."""
    memory = PromptMemory(16, 32, 4, torch.device("cpu"))
    assert [len(memory.batch(count).sampled_rows) for count in (16, 32)] == [17, 16]


def batch_of(rows: int, sampled: int, runs: int, blocks: int = 2) -> Batch:
    """Rows of `runs` runs whose every number is not zero."""
    run_of_row = torch.arange(rows, dtype=torch.int32) * runs // rows
    at = torch.arange(1, rows + 1, dtype=torch.int32)
    meta = AttentionMeta(at, at, run_of_row, torch.ones(runs, blocks, dtype=torch.int32), (rows,))
    chosen = torch.arange(rows - sampled, rows)
    of_chosen = AttentionMeta(at[chosen], at[chosen], run_of_row[chosen], meta.block_tables, (sampled,))
    tables = RowTable((rows,)), RowTable((sampled,))
    return Batch(at.long().unsqueeze(1), meta, *tables, chosen, of_chosen)


def test_nothing_of_a_larger_step_is_left() -> None:
    memory = PromptMemory(4, 32, 2, torch.device("cpu"))
    memory.take(batch_of(30, 4, 4), 32)
    memory.take(batch_of(10, 1, 1), 16)
    found = memory.batch(16)
    assert found.meta.positions[10:].tolist() == found.meta.slots[10:].tolist() == [0] * 6
    assert found.meta.run_of_row[10:].tolist() == [-1] * 6
    assert found.sampled_rows.tolist() == [9, 0, 0, 0] and found.sampled_meta.positions.tolist() == [10, 0, 0, 0]


def test_what_there_is_no_room_for() -> None:
    memory = PromptMemory(4, 32, 2, torch.device("cpu"))
    assert memory.fits(batch_of(32, 4, 4)) and memory.fits(batch_of(1, 1, 1))
    for batch in (batch_of(33, 1, 1), batch_of(20, 5, 4), batch_of(20, 1, 5), batch_of(20, 1, 1, blocks=3)):
        assert not memory.fits(batch)


def test_left_over_streams_write_to_the_null_block() -> None:
    memory = DecodeMemory(8, 2, torch.device("cpu"))
    slots, tables = np.arange(8), BlockTables(8, 2)
    tables.rows[:] = np.arange(1, 17).reshape(8, 2)
    memory.take(slots, np.full(8, 5), tables, slots, 4, 8)
    memory.take(slots[:3], np.array([1, 6, 7]), tables, slots[:3], 4, 4)
    found = memory.meta(4)
    assert found.positions.tolist() == [1, 6, 7, 0] and memory.slots(4).tolist() == [0, 1, 2, 0]
    assert found.slots.tolist() == [4 * 1 + 1, 4 * 4 + 2, 4 * 6 + 3, 0]
    assert found.block_tables[:3].tolist() == tables.rows[:3].tolist()


def test_greedy_rows_alone_want_the_largest() -> None:
    sampler = Sampler(5, 11, torch.device("cpu"))
    asked: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 0.0, "presence_penalty": 1.0},
        {"temperature": 0.0, "logprobs": 2}, {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": [3]},
    )  # fmt: skip
    for slot, params in enumerate(asked):
        sampler.admit(NewRequest(slot, [1], [], SamplingParams(**params), 0))
    found = []
    for slot in range(5):
        rows = SampledRows(np.array([slot]), np.array([0]), None, 1)
        found.append(sampler.takes_largest(rows, sampler.width(rows)))
    assert found == [True, False, False, False, False]
    late = SampledRows(np.array([4]), np.array([2]), None, 1)
    assert sampler.takes_largest(late, 2)
    assert not sampler.takes_largest(SampledRows(np.array([0]), np.array([-1]), np.array([4]), 0), 2)
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, torch.nan, 1.0], [torch.inf, 0.0, 0.0]])
    assert largest(logits).tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
