"""Warm-up writes to the null block alone, whatever the block size and the shortest context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.exact_model import write_random
from weft.compute.ops.base import Numerics
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity


@pytest.mark.parametrize(("block_size", "max_model_len"), [(1, 2), (2, 2), (16, 64), (1024, 64)])
def test_warm_up(tmp_path: Path, block_size: int, max_model_len: int) -> None:
    checkpoint = open_checkpoint(write_random(tmp_path, "tied"))
    shards = Shards(parse_config(checkpoint.config), resolve({}))
    limits = RankCapacity(num_blocks=3, block_size=block_size, max_num_seqs=2, max_model_len=max_model_len)
    executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float32), limits, torch.device("cpu"))
    (runner,) = executor.runners
    assert runner.warm_up().holds
    assert all(float(cache.k[1:].abs().max()) == 0.0 for cache in runner.caches)
