"""The twin on a CUDA device gives what it gives on the CPU; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from paged_cases import Sizes, dense_attention, paged

from weft.ops import Numerics, make_ops
from weft.ops.base import AttentionMeta, KVCache
from weft.ops.sampled_rows import sampled_rows
from weft.ops.sampling import Sampler
from weft.step.plan import Admit, Run
from weft.step.sampling_params import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
CUDA = torch.device("cuda")
RUNS = ((0, 37, 1), (100, 1, 2), (250, 20, 3), (3, 130, 6))


def on_cuda(meta: AttentionMeta) -> AttentionMeta:
    return replace(
        meta,
        positions=meta.positions.to(CUDA),
        slots=meta.slots.to(CUDA),
        run_of_row=meta.run_of_row.to(CUDA),
        block_tables=meta.block_tables.to(CUDA),
    )


@pytest.mark.parametrize("sizes", [Sizes((0, 0, 0, 1, 1, 1), 2, 64, 16), Sizes((0, 1, 1), 2, 10, 5, window=7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention(sizes: Sizes, dtype: torch.dtype) -> None:
    case = paged(sizes, RUNS, dtype)
    cache = KVCache(case.cache.k.to(CUDA), case.cache.v.to(CUDA))
    ops = make_ops(Numerics(dtype), CUDA)
    out = ops.attention(case.q.to(CUDA), cache, case.kv_of_head.to(CUDA), sizes.scale, on_cuda(case.meta), sizes.window)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert (out.double().cpu() - dense_attention(sizes, RUNS, dtype)).abs().max() < tolerance


def test_rows_hold_in_some_form_of_linear() -> None:
    ops = make_ops(Numerics(torch.bfloat16), CUDA)
    weights = [torch.randn(shape, device=CUDA).bfloat16() for shape in ((960, 576), (576, 1536))]
    assert ops.check_batch_invariance(weights, seconds=20).holds


def test_sampling_as_on_the_cpu() -> None:
    logits = 3 * torch.randn(6, 500)
    found = []
    for device in (torch.device("cpu"), CUDA):
        sampler = Sampler(6, 500, device)
        for slot in range(6):
            params = SamplingParams(temperature=slot * 0.4, top_p=0.9, logprobs=2, repetition_penalty=1.1)
            sampler.admit(Admit(slot, [1, 2], [3], params, slot))
        runs = [Run(slot, 0, 1, [], [1], True, 1) for slot in range(6)]
        rows = sampled_rows(np.zeros((3, 0), np.int64), runs)
        records = sampler.remember(sampler.sample(logits.to(device), rows, sampler.width(rows)), rows).runs
        found.append([(record.token_id, [token for token, _ in record.top]) for record in records])
    assert found[0] == found[1]
