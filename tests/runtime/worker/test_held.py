"""What a rank says that it holds is what it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.exact_model import write_random
from weft.compute.ops import make_ops
from weft.compute.ops.base import Numerics
from weft.compute.ops.weights import Packed, Use, memory_of
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.explain import explain
from weft.tools.verify.dry_run.run import dry_run

LIMITS = RankCapacity(num_blocks=3, block_size=16, max_num_seqs=2, max_model_len=32)


@pytest.mark.parametrize("given", [{}, {"attention.tp": 2, "dense.tp": 1, "embedding.tp": 1, "lm_head.tp": 2}], ids=str)
@pytest.mark.parametrize("form", ["tied", "biased"])
def test_plain_weights_take_what_is_planned(tmp_path: Path, form: str, given: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(write_random(tmp_path, form))
    shards = Shards(parse_config(checkpoint.config), resolve(given))
    numerics = Numerics(torch.float16)  # which nothing packs
    executor = LockstepExecutor(checkpoint, shards, numerics, LIMITS, torch.device("cpu"))
    for rank, runner in enumerate(executor.runners):
        weights, kv_cache = runner.held()
        assert weights == sum(shards.bytes(rank, 2).values())
        caches = [part for cache in runner.caches for part in (cache.k, cache.v)]
        assert kv_cache >= sum(part.nbytes for part in caches) > 0
        assert runner.cache_memory.memory is not None and kv_cache == runner.cache_memory.memory.nbytes


@pytest.mark.parametrize(("form", "tp"), [("latent", 2), ("window", 6)])
def test_a_shared_context_takes_half(tmp_path: Path, form: str, tp: int) -> None:
    """Memory of a rank as explained, dry run and held; kv_split 2 halves what a token of a context takes."""
    checkpoint, limits = open_checkpoint(write_random(tmp_path, form)), replace(LIMITS, num_blocks=40)
    config, a_token = parse_config(checkpoint.config), dict[int, list[float]]()
    for kv_split in (1, 2):
        given = {"attention.tp": tp, "attention.kv_split": kv_split, "o_proj.tp": 2, "dense.tp": 2, "experts.slots": 6}
        layout = resolve(given if config.moe else {**given, "experts.slots": None}, num_experts=config.num_experts)
        shards, report = Shards(config, layout), explain("m", config, layout, dtype="float16")
        executor = LockstepExecutor(checkpoint, shards, Numerics(torch.float16), limits, torch.device("cpu"))
        of_ranks = a_token.setdefault(kv_split, [])
        for rank, runner in enumerate(executor.runners):
            weights, kv_cache = runner.held()
            dry = dry_run(shards, rank, torch.float16, 1)
            assert weights == report.ranks[rank].total == dry.param_bytes
            tokens = (limits.num_blocks + 1) * limits.block_size * layout.kv_owners
            of_ranks.append(kv_cache / tokens)
            assert kv_cache / tokens == pytest.approx(report.ranks[rank].kv_bytes_per_token, rel=0.01)
            assert dry.kv_bytes_per_token == report.ranks[rank].kv_bytes_per_token
        executor.close()
    assert a_token[2] == pytest.approx([whole / 2 for whole in a_token[1]], rel=0.01)


def test_what_weights_have_in_common_counts_once() -> None:
    matrix = torch.zeros(64, 32, dtype=torch.bfloat16)
    assert memory_of([matrix, matrix[3:5], torch.zeros(4)]) == 64 * 32 * 2 + 16
    packed = make_ops(Numerics(torch.bfloat16), "cpu").prepare(matrix, Use.LINEAR)
    if isinstance(packed, Packed):
        assert memory_of([packed, packed, matrix]) == packed.nbytes + 64 * 32 * 2
