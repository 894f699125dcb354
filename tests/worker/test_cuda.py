"""One rank on a CUDA device gives the CPU's tokens, logits within 1e-4 in fp32, and the exact model's bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.equivalence.harness import EXACT, LIMITS, MIXED, largest_difference, run_workload, same_bits
from tests.support.exact_model import write_exact, write_random
from weft.arch import Shards, parse_config
from weft.checkpoint import open_checkpoint
from weft.launch.lockstep_executor import LockstepExecutor
from weft.layout.resolve import resolve
from weft.ops.base import Numerics
from weft.verify.record import Outcome

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def run(path: Path, numerics: Numerics, device: str) -> list[Outcome]:
    checkpoint = open_checkpoint(path)
    shards = Shards(parse_config(checkpoint.config), resolve({}))
    outcomes = run_workload(LockstepExecutor(checkpoint, shards, numerics, LIMITS, torch.device(device)), MIXED)
    for outcome in outcomes:
        outcome.logits = [logits.cpu() for logits in outcome.logits]
    return outcomes


@pytest.mark.parametrize("variant", ["biased", "qk_norm"])
def test_fp32_on_cuda_equals_the_cpu(tmp_path: Path, variant: str) -> None:
    path = write_random(tmp_path, variant)
    cpu, cuda = (run(path, Numerics(torch.float32), device) for device in ("cpu", "cuda"))
    assert [one.tokens for one in cuda] == [one.tokens for one in cpu]
    assert largest_difference(cpu, cuda) < 1e-4


def test_the_exact_model_gives_the_same_bits_on_cuda(tmp_path: Path) -> None:
    path = write_exact(tmp_path, "biased")
    assert same_bits(run(path, EXACT, "cuda"), run(path, EXACT, "cpu"))
