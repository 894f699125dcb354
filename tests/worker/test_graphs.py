"""What graphs of steps read and give, without a device: the captured steps are run anew instead of replayed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.equivalence.harness import MIXED, Workload, checkpoint_at, make_executor, random_prompts, run_workload
from tests.support.exact_model import write_exact
from weft.arch import parse_config
from weft.layout.resolve import resolve
from weft.models.decoder import Batch
from weft.ops.base import AttentionMeta, KVCache, Numerics
from weft.ops.exact_ops import ExactOps
from weft.step.plan import GroupPlan, StepPlan
from weft.worker.graph_inputs import PromptMemory
from weft.worker.graphs import Ran, Step, StepGraphs, row_counts, worthwhile_rows
from weft.worker.inputs import InputBuilder, StepInputs
from weft.worker.runner import Runner

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

    def _captured(self, step: Step, pool: object) -> Again:  # type: ignore[override]
        return Again(step, *step())

    def decode(self, inputs: InputBuilder, plan: StepPlan, group: GroupPlan) -> Ran | None:
        return self._shown(super().decode(inputs, plan, group), "decoded")

    def prompts(self, inputs: StepInputs) -> Ran | None:
        return self._shown(super().prompts(inputs), "prompted")

    def _shown(self, ran: Ran | None, name: str) -> Ran | None:
        if ran is not None:
            setattr(self, name, getattr(self, name) + 1)
            self._decoder._show("lm_head", ran[0], self._decoder.boundaries["lm_head.out"].dst)
        return ran


class ByRow(ExactOps):
    """Attention that takes a row's run from `run_of_row` alone, as a device's kernels do."""

    def attention(
        self, q: Tensor, cache: KVCache, kv_of_head: Tensor, scale: float, meta: AttentionMeta, window: int
    ) -> Tensor:
        count = len(q)
        tables = meta.block_tables[meta.run_of_row.long().clamp(min=0)]
        each = torch.arange(count, dtype=torch.int32)
        alone = replace(meta, run_of_row=each, block_tables=tables, row_ends=tuple(range(1, count + 1)))
        return super().attention(q, cache, kv_of_head, scale, alone, window)


def with_graphs(runner: Runner) -> Repeated:
    ops = ByRow(Numerics(torch.float32, exact=True), torch.device("cpu"))
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
