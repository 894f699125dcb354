"""What a rank says that it holds is what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.exact_model import write_random
from weft.arch import Shards, parse_config
from weft.checkpoint import open_checkpoint
from weft.layout.resolve import resolve
from weft.ops import make_ops
from weft.ops.base import Numerics
from weft.ops.weights import Packed, Use, memory_of
from weft.worker.lockstep_executor import LockstepExecutor
from weft.worker.runner import RankCapacity

LIMITS = RankCapacity(num_blocks=3, block_size=16, max_num_seqs=2, max_model_len=32)


@pytest.mark.parametrize("given", [{}, {"attention.tp": 2, "dense.tp": 1, "embedding.tp": 1, "lm_head.tp": 2}], ids=str)
@pytest.mark.parametrize("form", ["tied", "biased"])
def test_plain_weights_take_what_is_planned(tmp_path: Path, form: str, given: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(write_random(tmp_path, form))
    shards = Shards(parse_config(checkpoint.config), resolve(given))
    numerics = Numerics(torch.float16)  # which nothing packs
    executor = LockstepExecutor(checkpoint, shards, numerics, LIMITS, torch.device("cpu"))
    for rank, runner in enumerate(executor.runners):
        weights, kv_cache, bounds = runner.held()
        assert weights == sum(shards.bytes(rank, 2).values())
        caches = [part for cache in runner.caches for part in (cache.k, cache.v)]
        assert kv_cache >= sum(part.nbytes for part in caches) > 0 == bounds
        assert runner.cache_memory.memory is not None and kv_cache == runner.cache_memory.memory.nbytes


def test_what_weights_have_in_common_counts_once() -> None:
    matrix = torch.zeros(64, 32, dtype=torch.bfloat16)
    assert memory_of([matrix, matrix[3:5], torch.zeros(4)]) == 64 * 32 * 2 + 16
    packed = make_ops(Numerics(torch.bfloat16), "cpu").prepare(matrix, Use.LINEAR)
    if isinstance(packed, Packed):
        assert memory_of([packed, packed, matrix]) == packed.nbytes + 64 * 32 * 2
