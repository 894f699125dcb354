"""Ranks on a CUDA device: the CPU's tokens, logits within 1e-4 in fp32, the exact model's bits in any layout, and in
graphs what they give operation by operation."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from tests.equivalence.harness import (
    EXACT,
    MIXED,
    ExpertSizes,
    Sizes,
    all_dispatched,
    all_sizes,
    any_layout,
    checkpoint_at,
    covering,
    largest_difference,
    make_executor,
    run_workload,
    same_bits,
)
from tests.support.exact_model import write_exact, write_random
from weft.base.step.plan import RankPlan
from weft.compute.ops.base import Numerics
from weft.parallel.arch import parse_config
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.tensors.graphs import Ran, StepGraphs
from weft.runtime.worker.tensors.inputs import InputBuilder, StepInputs
from weft.tools.verify.record import GreedyOutput

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
EXPERTS = {"experts": 5, "latent": 6}


def plain(path: Path) -> Layout:
    """One rank."""
    return resolve({}, 1, num_experts=parse_config(checkpoint_at(path).config).num_experts)


def run(
    path: Path, numerics: Numerics, device: str, world: int = 1, sizes: Sizes | ExpertSizes | None = None
) -> list[GreedyOutput]:
    layout = plain(path) if sizes is None else any_layout(path, world, sizes)
    outcomes = run_workload(make_executor(path, layout, numerics, device), MIXED)
    for outcome in outcomes:
        outcome.logits = [logits.cpu() for logits in outcome.logits]
    return outcomes


@pytest.mark.parametrize("variant", ["biased", "qk_norm"])
def test_fp32_on_cuda_equals_the_cpu(tmp_path: Path, variant: str) -> None:
    path = write_random(tmp_path, variant)
    cpu, cuda = (run(path, Numerics(torch.float32), device) for device in ("cpu", "cuda"))
    assert [one.tokens for one in cuda] == [one.tokens for one in cpu]
    assert largest_difference(cpu, cuda) < 1e-4


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("variant", ["biased", "tied", "qk_norm"])
def test_dense_layouts_give_the_same_bits_on_cuda(tmp_path: Path, variant: str, world: int) -> None:
    path = write_exact(tmp_path, variant)
    expected = run(path, EXACT, "cpu")
    for sizes in covering(all_sizes(world), 1)[0]:
        assert same_bits(run(path, EXACT, "cuda", world, sizes), expected), f"world {world}, {sizes}"


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("variant", EXPERTS)
def test_expert_layouts_give_the_same_bits_on_cuda(tmp_path: Path, variant: str, world: int) -> None:
    path = write_exact(tmp_path, variant)
    every = covering(all_dispatched(world, EXPERTS[variant]), 1)[0]
    expected = run(path, EXACT, "cpu")
    for sizes in random.Random(world).sample(every, min(len(every), 4)):
        assert same_bits(run(path, EXACT, "cuda", world, sizes), expected), f"world {world}, {sizes}"


class Shown(StepGraphs):
    """Shows its logits to the decoder's tap, as the decoder does when it runs operation by operation; counts steps."""

    replayed = 0

    def decode(self, inputs: InputBuilder, plan: RankPlan) -> Ran | None:
        return self._shown(super().decode(inputs, plan))

    def prompts(self, inputs: StepInputs) -> Ran | None:
        return self._shown(super().prompts(inputs))

    def _shown(self, ran: Ran | None) -> Ran | None:
        if ran is not None:
            self.replayed += 1
            self._decoder._show("lm_head", ran[0], self._decoder.boundaries["lm_head.out"].dst)
        return ran


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(name, torch.bfloat16) for name in ("biased", "qk_norm", "experts", "latent")] + [("tied", torch.float32)],
)
def test_graphs_give_the_bits_of_single_operations(tmp_path: Path, variant: str, dtype: torch.dtype) -> None:
    layout = plain(path := write_random(tmp_path, variant))
    found = []
    for eager in (True, False):
        executor = make_executor(path, layout, Numerics(dtype), "cuda", enforce_eager=eager)
        runner = executor.runners[0]
        assert eager == (runner.graphs is None), runner.why_eager
        if runner.graphs is not None:
            runner.graphs.__class__ = Shown
        runner.warm_up()
        found.append(run_workload(executor, MIXED))
        if isinstance(runner.graphs, Shown):
            assert runner.graphs.replayed >= 4
    assert same_bits(*found)
