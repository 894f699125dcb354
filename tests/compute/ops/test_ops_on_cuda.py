"""Operations on a CUDA device, Triton's kernels and the twin, against the CPU's; skipped where there is none."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.compute.ops.paged_cases import Run as Rows
from tests.compute.ops.paged_cases import Sizes, attended, dense_attention, paged
from weft.base.step.plan import NewRequest, ScheduledRequest
from weft.base.step.sampling_params import SamplingParams
from weft.compute.ops import Numerics, make_ops
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import HeadNorms, Heads, RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.sampling.sampled_rows import sampled_rows
from weft.compute.sampling.sampler import Sampler

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


SIZES = {
    "grouped": Sizes((0, 0, 0, 1, 1, 1), 2, 64, 16),
    "uneven": Sizes((0, 1, 1), 2, 10, 5, window=7),
    "crossed": Sizes((1, 0), 2, 256, 32),
    "many heads": Sizes((0,) * 100, 1, 128, 16, window=100),
    "latent": Sizes((0,) * 20, 1, 576, 16),
}
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def attend(ops: Ops, sizes: Sizes, runs: Sequence[Rows], dtype: torch.dtype, seed: int = 0) -> Tensor:
    case = paged(sizes, runs, dtype, seed)
    cache = KVCache(case.cache.k.to(CUDA), case.cache.v.to(CUDA))
    kv_of_head = case.kv_of_head.to(CUDA)
    return attended(ops, case.q.to(CUDA), cache, kv_of_head, sizes.scale, on_cuda(case.meta), sizes.window)


@pytest.mark.parametrize("plain", [False, True], ids=["fastest", "twin"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention(sizes: Sizes, dtype: torch.dtype, plain: bool) -> None:
    ops = TorchOps(Numerics(dtype), CUDA) if plain else make_ops(Numerics(dtype), CUDA)
    out = attend(ops, sizes, RUNS, dtype)
    assert (out.double().cpu() - dense_attention(sizes, RUNS, dtype)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_alone_and_in_any_chunk(sizes: Sizes, dtype: torch.dtype) -> None:
    """Alone it goes through splits beside one another, in a chunk through one program."""
    ops = make_ops(Numerics(dtype), CUDA)
    whole = attend(ops, sizes, ((0, 700, 4),), dtype)
    for begin, end in ((0, 1), (5, 6), (255, 256), (256, 257), (300, 333), (600, 700), (699, 700)):
        beside: tuple[Rows, ...] = ((begin, end - begin, 4), (90, 1, 3))
        assert torch.equal(attend(ops, sizes, beside, dtype, seed=end)[: end - begin], whole[begin:end]), begin


@pytest.mark.parametrize("scratch", [1 << 30, 0], ids=["splits beside one another", "one behind the other"])
def test_rows_that_are_left_over_join_no_tile(monkeypatch: pytest.MonkeyPatch, scratch: int) -> None:
    """As graphs leave them over: of run 0, at position 0, with keys that were not written."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(importlib.import_module("weft.compute.ops.cuda.triton_attention"), "SCRATCH_BYTES", scratch)
    both = torch.full((6, 2, 1, 16, 32), torch.nan, device=CUDA)
    both[3], both[4, :, :, :13] = torch.randn(2, 1, 16, 32), torch.randn(2, 1, 13, 32)
    positions = torch.tensor([28, *[0] * 7], dtype=torch.int32, device=CUDA)
    tables = torch.tensor([[3, 4, 0, 0]], dtype=torch.int32, device=CUDA)
    meta = AttentionMeta(positions, 0 * positions, 0 * positions, tables, tuple(range(1, 9)))
    heads = torch.zeros(1, dtype=torch.int32, device=CUDA)
    ops, q = make_ops(Numerics(torch.float32), CUDA), torch.randn(8, 1, 32, device=CUDA)
    assert attended(ops, q, KVCache(both[:, 0], both[:, 1]), heads, 0.2, meta, 0)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_as_the_twin_has_them(dtype: torch.dtype) -> None:
    fast, twin = make_ops(Numerics(dtype), CUDA), TorchOps(Numerics(dtype), CUDA)
    step = 4 * torch.finfo(dtype).eps
    stream, weight = 3 * torch.randn(7, 576, device=CUDA), torch.randn(576, device=CUDA).to(dtype)
    for x in (stream, stream.to(dtype), stream.to(dtype)[:, 64:].contiguous()[:, :500]):
        found = [ops.rms_norm(x, weight[: x.shape[1]], 1e-5).float() for ops in (fast, twin)]
        torch.testing.assert_close(*found, rtol=step, atol=step)
    gate_up = 2 * torch.randn(7, 2 * 1500, device=CUDA).to(dtype)
    torch.testing.assert_close(fast.silu_mul(gate_up), twin.silu_mul(gate_up), rtol=step, atol=step)


@pytest.mark.parametrize(
    ("dim", "rotated", "scaled"), [(64, 64, False), (20, 20, True), (20, 12, False), (24, 0, True)]
)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_as_the_twin_has_them(dtype: torch.dtype, normed: bool, dim: int, rotated: int, scaled: bool) -> None:
    q_norm, k_norm = (torch.randn(dim, device=CUDA).to(dtype) for _ in "qk")
    rope = RotaryTables(torch.randn(50, rotated, device=CUDA), 1 + torch.rand(50, device=CUDA) if scaled else None)
    heads = Heads(5, 2, dim, rope, HeadNorms(q_norm, k_norm, 1e-5) if normed else None)
    packed = torch.randn(6, 9 * dim, device=CUDA).to(dtype)
    rows = [torch.tensor(row, dtype=torch.int32, device=CUDA) for row in ([0, 1, 2, 7, 8, 49], [4, 5, 6, 20, 21, 33])]
    tables = torch.zeros(1, 1, dtype=torch.int32, device=CUDA)
    meta = AttentionMeta(rows[0], rows[1], torch.zeros_like(rows[0]), tables, (6,))
    found = []
    for ops in (make_ops(Numerics(dtype), CUDA), TorchOps(Numerics(dtype), CUDA)):
        both = torch.zeros(9, 2, 2, 4, dim, dtype=dtype, device=CUDA)
        found.append((ops.qkv(packed, heads, meta, KVCache(both[:, 0], both[:, 1])), both))
    step = 8 * torch.finfo(dtype).eps
    for fast, twin in zip(*found, strict=True):
        torch.testing.assert_close(fast, twin, rtol=step, atol=step)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
def test_products_in_one_order_of_summation(dtype: torch.dtype, biased: bool) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    form = importlib.import_module("weft.compute.ops.cuda.triton_product").Ordered()
    for columns, depth in ((960, 576), (2048, 8192), (70, 100)):
        x, weight = (torch.randn(rows, depth, device=CUDA).to(dtype) for rows in (2048, columns))
        bias = torch.randn(columns, device=CUDA).to(dtype) if biased else None
        whole = form(x, weight, bias)
        wanted = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
        assert (whole.double() - wanted).norm() / wanted.norm() < 4 * torch.finfo(dtype).eps
        for begin, end in ((0, 1), (7, 9), (30, 96), (100, 500), (1024, 2048)):
            assert torch.equal(form(x[begin:end], weight, bias), whole[begin:end]), (columns, begin, end)


def test_rows_of_logits_hold() -> None:
    ops, x = make_ops(Numerics(torch.bfloat16), CUDA), torch.randn(256, 576, device=CUDA).bfloat16()
    for vocabulary in (49152, 101):
        weight = torch.randn(vocabulary, 576, device=CUDA).bfloat16()
        whole = ops.logits(x, weight)
        assert (whole.double() - x.double() @ weight.double().t()).abs().max() < 1e-3
        for begin, end in ((0, 1), (7, 9), (30, 46), (100, 200)):
            assert torch.equal(ops.logits(x[begin:end], weight), whole[begin:end]), (begin, end)


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
            sampler.admit(NewRequest(slot, [1, 2], [3], params, slot))
        runs = [ScheduledRequest(slot, 0, 1, [], [1], True, 1) for slot in range(6)]
        rows = sampled_rows(np.zeros((3, 0), np.int64), runs)
        records = sampler.remember(sampler.sample(logits.to(device), rows, sampler.width(rows)), rows).runs
        found.append([(record.token_id, [token for token, _ in record.top]) for record in records])
    assert found[0] == found[1]
