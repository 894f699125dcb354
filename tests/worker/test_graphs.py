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
from weft.worker.graphs import StepGraphs, prompt_counts, row_counts
from weft.worker.runner import Runner

LONG = Workload(random_prompts((20, 3, 17, 9), 101), (0, 0, 1, 2), max_tokens=6, budget=24)


@dataclass
class Again:
    """A captured step that is run anew, into the memory of the first time."""

    graphs: StepGraphs
    batch: Batch
    logits: Tensor
    values: Tensor

    @property
    def graph(self) -> Again:
        return self

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        for kept, found in zip((self.logits, self.values), self.graphs._forward(self.batch), strict=True):
            kept.copy_(found)


class Repeated(StepGraphs):
    """Counts the steps that graphs ran, by whether they had prompts."""

    ran: list[bool]

    def _captured(self, batch: Batch, pool: object) -> Again:  # type: ignore[override]
        return Again(self, batch, *self._forward(batch))

    def run(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        found = super().run(batch)
        if found is not None:
            self.ran.append(len(batch.sampled_rows) < len(batch.ids))
            self._decoder._show("lm_head", found[0], self._decoder.boundaries["lm_head.out"].dst)
        return found


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
    graphs = Repeated(runner.decoder, runner.caches, runner.geometry, limits.max_num_seqs, 32, width)
    graphs.ran = []
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
    assert graphs.ran.count(False) >= 2 and graphs.ran.count(True) >= 2, graphs.ran


def test_counts_of_rows() -> None:
    assert tuple(row_counts(1)) == (1,)
    assert tuple(row_counts(64)) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
    assert tuple(row_counts(300))[-4:] == (192, 224, 256, 300)
    assert prompt_counts(8) == () and prompt_counts(100) == (16, 32, 64, 96)
