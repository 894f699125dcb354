"""The number of torch operations of a decode step is the same at batch 1 and at batch 32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.exact_model import write_random
from tests.support.native_libraries import need
from weft.base.step.plan import GroupPlan, NewRequest, ScheduledRequest, StepPlan
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops.base import Numerics
from weft.model.checkpoint import open_checkpoint
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.resolve import resolve
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.prepared_rank import RankCapacity

GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, presence_penalty=0.5, repetition_penalty=1.1)


class Counted(TorchDispatchMode):
    """Counts every operation that reaches torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def decode_calls(executor: LockstepExecutor, batch: int, params: SamplingParams) -> Counter[str]:
    """Operations of one decode step over `batch` rows in every dp group, all ranks together."""
    groups = range(executor.layout.attention.dp)
    prompts = [[slot + 1, 2, 3 * slot] for slot in range(batch)]
    admits = [NewRequest(slot, ids, [], params, slot) for slot, ids in enumerate(prompts)]
    first = [ScheduledRequest(slot, 0, 3, ids, [slot + 1], True) for slot, ids in enumerate(prompts)]
    then = [ScheduledRequest(slot, 3, 1, [], [slot + 1], True, 1) for slot in range(batch)]
    executor.step(StepPlan(0, [GroupPlan(admits, first) for _ in groups]))
    with Counted() as counted:
        executor.step(StepPlan(1, [GroupPlan([], then) for _ in groups]))
    found: Counter[str] = counted.calls
    return found


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("world", [1, 2])
def test_decode_step_dispatches_the_same_operations(
    tmp_path: Path, world: int, dtype: torch.dtype, params: SamplingParams
) -> None:
    need("step")  # the plain attention twin loops over requests
    checkpoint = open_checkpoint(write_random(tmp_path, "biased"))
    layout = resolve({"attention.tp": world, "dense.tp": 1}, world)
    limits = RankCapacity(num_blocks=64, block_size=8, max_num_seqs=32, max_model_len=64)
    shards = Shards(parse_config(checkpoint.config), layout)
    executor = LockstepExecutor(checkpoint, shards, Numerics(dtype), limits, torch.device("cpu"))
    # a rank without a row samples nothing: the smallest batch gives every rank one
    alone, batched = decode_calls(executor, world, params), decode_calls(executor, 32, params)
    assert sum(alone.values()) > 50
    assert alone == batched


def routed_calls(
    path: Path, experts: int, layout: dict[str, object], world: int, batch: int, backend: str
) -> Counter[str]:
    """Operations of a decode step of a model whose every layer has `experts`."""
    checkpoint = open_checkpoint(write_random(path / f"{experts}", "experts", sizes={"num_experts": experts}))
    resolved = resolve({"attention.dp": world, **layout}, world, num_experts=experts)
    limits = RankCapacity(num_blocks=64, block_size=8, max_num_seqs=32, max_model_len=64)
    shards, numerics = Shards(parse_config(checkpoint.config), resolved), Numerics(torch.float32, moe_backend=backend)
    executor = LockstepExecutor(checkpoint, shards, numerics, limits, torch.device("cpu"))
    return decode_calls(executor, batch, GREEDY)


@pytest.mark.parametrize(
    ("world", "layout"),
    [
        (1, {}),
        (2, {"experts.dispatch": "all_gather"}),
        (2, {"experts.dispatch": "all_to_all"}),
        (2, {"experts.dispatch": "all_to_all", "experts.tp": 2, "experts.ep": 1}),
    ],
    ids=str,
)
def test_routed_layers_dispatch_the_same_operations(tmp_path: Path, world: int, layout: dict[str, object]) -> None:
    """However many rows a step has, and however many experts have none of them."""
    need("step")  # the plain attention twin loops over requests
    alone = routed_calls(tmp_path, 4, layout, world, 1, "grouped")
    assert alone["aten._grouped_mm.default"] == 2 * 3 * world
    assert alone == routed_calls(tmp_path, 4, layout, world, 32, "grouped")
    assert alone == routed_calls(tmp_path, 64, layout, world, 1, "grouped")
    assert alone == routed_calls(tmp_path, 64, layout, world, 32, "grouped")
    packed = routed_calls(tmp_path, 4, layout, world, 1, "packed")
    assert (
        packed == routed_calls(tmp_path, 64, layout, world, 32, "packed") and "aten._grouped_mm.default" not in packed
    )
    # the plain twin multiplies slot by slot: what is counted here can grow
    few, many = (routed_calls(tmp_path, 64, layout, world, rows, "plain") for rows in (1, 32))
    assert few.total() < many.total()
