"""A step program receives, on every rank, the bytes that the dry run (and so explain) counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.runtime.worker.decode_cases import streams
from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.base.step.plan import GroupPlan, NewRequest, ScheduledRequest, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.model.checkpoint import open_checkpoint
from weft.model.program.build import RankProgram
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.prepared_rank import RankCapacity
from weft.tools.explain import explain
from weft.tools.verify.dry_run.run import dry_run

BATCH = 4
"""Rows of a group; as many on each of its ranks, so that the ranks of an all_reduce receive alike."""
LAYOUTS: list[dict[str, object]] = [
    {"attention.tp": 2},
    {"attention.dp": 2, "dense.tp": 2, "lm_head.tp": 2},
    {"attention.tp": 4, "o_proj.tp": 2, "lm_head.tp": 1},
    {"attention.tp": 2, "attention.dp": 2, "dense.tp": 4, "o_proj.tp": 1, "embedding.tp": 4},
    {"attention.tp": 2, "pipeline.stages": 2},
    {"attention.dp": 2, "dense.tp": 2, "pipeline.stages": 2},
]
SHARED: list[dict[str, object]] = [
    {"attention.tp": 2, "attention.kv_split": 2},
    {"attention.tp": 4, "attention.kv_split": 2},
    {"attention.tp": 2, "attention.kv_split": 2, "attention.dp": 2},
]
"""Of a model with one KV head, or latents. With cp a rank has as many rows as positions say."""


@pytest.mark.parametrize(
    ("variant", "given"),
    [*(("biased", each) for each in LAYOUTS), *((model, each) for model in ("window", "latent") for each in SHARED)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_bytes_of_a_decode_step(tmp_path: Path, variant: str, given: dict[str, object], dtype: torch.dtype) -> None:
    need("step", "comm")
    checkpoint = open_checkpoint(write_random(tmp_path, variant))
    config = parse_config(checkpoint.config)
    shards = Shards(config, resolve(given, num_experts=config.num_experts))
    limits = RankCapacity(num_blocks=16, block_size=16, max_num_seqs=8, max_model_len=64)
    executor = ProgramExecutor(checkpoint, shards, Numerics(dtype), limits)
    groups = range(shards.layout.attention.dp)
    admits = [NewRequest(slot, [1, 2], [], SamplingParams(temperature=0.0), 0) for slot in range(BATCH)]
    first = [ScheduledRequest(slot, 0, 2, [1, 2], [slot + 1], True) for slot in range(BATCH)]
    executor.step(StepPlan(0, [GroupPlan(list(admits), list(first)) for _ in groups]))
    before = executor.received()
    for runner in executor.runners:
        runner.decode = None  # which would share sampled ids inside
    executor.step(StepPlan(1, [streams(*((slot, 2, 1) for slot in range(BATCH))) for _ in groups], awaits=1))
    found = [after - earlier for after, earlier in zip(executor.received(), before, strict=True)]
    executor.close()
    for rank, nbytes in enumerate(found):
        calls = dry_run(shards, rank, dtype, BATCH).collectives
        # sampled ids are shared, and sent to the first stage, after the program
        inside = [call for call in calls if call.where not in ("sampling.out", "ids.in")]
        assert nbytes == sum(call.nbytes * call.calls for call in inside), rank
    assert all(found)


@pytest.mark.parametrize(
    "given",
    [{"attention.tp": 2}, {"attention.tp": 2, "attention.dp": 2, "dense.tp": 4, "embedding.tp": 4}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_bytes_of_a_step_in_which_all_rows_take_their_largest_logit(
    tmp_path: Path, given: dict[str, object], dtype: torch.dtype
) -> None:
    need("step", "comm")
    checkpoint = open_checkpoint(write_random(tmp_path, "biased"))
    shards = Shards(parse_config(checkpoint.config), resolve(given))
    limits = RankCapacity(num_blocks=16, block_size=16, max_num_seqs=8, max_model_len=64)
    executor = ProgramExecutor(checkpoint, shards, Numerics(dtype), limits)
    for runner in executor.runners:
        shown = runner.program
        assert shown is not None
        runner.program = RankProgram(shown.program, shown._comm, shown._block)  # which need not show all logits
    groups = range(shards.layout.attention.dp)
    admits = [NewRequest(slot, [1, 2], [], SamplingParams(temperature=0.0), 0) for slot in range(BATCH)]
    first = [ScheduledRequest(slot, 0, 2, [1, 2], [slot + 1], True) for slot in range(BATCH)]
    executor.step(StepPlan(0, [GroupPlan(list(admits), list(first)) for _ in groups]))
    received = [executor.received()]
    for at in (1, 2):
        executor.step(StepPlan(at, [streams(*((slot, at + 1, at) for slot in range(BATCH))) for _ in groups]))
        received.append(executor.received())
    executor.close()
    found = [after - earlier for after, earlier in zip(received[2], received[1], strict=True)]
    name = str(dtype).removeprefix("torch.")
    report = explain("m", shards.config, shards.layout, dtype=name, batch=BATCH)
    assert found == list(report.received_for_largest(BATCH))
    assert all(largest < drawn for largest, drawn in zip(found, report.received_per_step(BATCH), strict=True))
