"""Norm, rope with cache write, SiLU * up, embedding: values against plain formulas; a row depends on no other row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.compute.ops.operation_count import count_operations
from weft.compute.ops import make_ops
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import Numerics, RotaryTables
from weft.compute.ops.interface import Ops
from weft.compute.ops.reference.rope import build_cos_sin
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import Use
from weft.parallel.arch.config import RopeConfig

# Relative to the size of the result: one rounding to the dtype, and a few of fp32 or fp64 before it.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2.0**-8}
COUNTS = (1, 2, 3, 5, 8, 13, 31, 64, 150)


def close(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    return bool(((got.double() - wanted).abs() <= TOLERANCE[dtype] * wanted.abs().clamp(min=1)).all())


@pytest.mark.parametrize("size", [1, 8, 33, 576, 1000])
def test_rms_norm(ops: Ops, dtype: torch.dtype, size: int) -> None:
    x, weight = (3 * torch.randn(7, size)).to(dtype), torch.randn(size).to(dtype)
    wide = x.double()
    wanted = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    out = ops.rms_norm(x, weight, 1e-5)
    assert out.dtype == dtype and close(out, wanted, dtype)


def test_rms_norm_of_heads_inside_a_packed_buffer(ops: Ops, dtype: torch.dtype) -> None:
    packed, weight = torch.randn(6, 5 * 16).to(dtype), torch.randn(16).to(dtype)
    heads = packed.view(-1, 5, 16)[:, 1:3]
    assert torch.equal(ops.rms_norm(heads, weight, 1e-6), ops.rms_norm(heads.contiguous(), weight, 1e-6))


@pytest.mark.parametrize("size", [1, 8, 97, 768, 1000])
def test_silu_mul(ops: Ops, dtype: torch.dtype, size: int) -> None:
    x = (8 * torch.randn(9, 2 * size)).to(dtype)
    gate, up = x.double().chunk(2, -1)
    out = ops.silu_mul(x)
    assert out.dtype == dtype and close(out, gate * torch.sigmoid(gate) * up, dtype)


def test_silu_of_large_numbers(ops: Ops, dtype: torch.dtype) -> None:
    gate = torch.tensor([[-1e4, -800.0, -88.0, 0.0, 88.0, 1e4, torch.nan, torch.inf]])
    out = ops.silu_mul(torch.cat((gate, torch.ones_like(gate)), -1).to(dtype)).double()[0]
    assert out[:3].abs().max() < 1e-30 and out[3:6].tolist() == gate.to(dtype).double()[0, 3:6].tolist()
    assert out[6].isnan() and out[7] == torch.inf


@pytest.mark.parametrize(("dim", "rotated"), [(2, 2), (10, 10), (64, 64), (128, 128), (42, 12), (20, 0)])
def test_rope_and_cache(ops: Any, dtype: torch.dtype, dim: int, rotated: int) -> None:
    rows, heads, kv_heads, size = 9, 5, 2, 4
    packed = torch.randn(rows, heads + 2 * kv_heads, dim).to(dtype)
    q, k, v = torch.split(packed, [heads, kv_heads, kv_heads], 1)
    positions, slots = torch.randint(0, 50, (rows,)), torch.randperm(40)[:rows] + size
    wide = torch.promote_types(dtype, torch.float32)
    k_cache, v_cache = (torch.zeros(12, kv_heads, size, dim, dtype=dtype) for _ in range(2))
    cache = KVCache(k_cache, v_cache)
    meta = AttentionMeta(positions.int(), slots.int(), torch.zeros(rows).int(), torch.zeros(1, 1).int(), (rows,))
    cos_sin = build_cos_sin(RopeConfig(), rotated, 50, dtype=wide) if rotated else torch.zeros(50, 0, dtype=wide)
    scales = torch.rand(50).to(wide)
    out = ops.rope_and_cache(q, k, v, RotaryTables(cos_sin, scales), meta, cache)

    angles = positions.double()[:, None] * 10000.0 ** (-torch.arange(0, rotated, 2).double() / max(rotated, 1))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def turned(x: Tensor) -> Tensor:
        first, second, kept = x.double().split([rotated // 2, rotated // 2, dim - rotated], -1)
        z = torch.complex(first, second) * turn
        return torch.cat((z.real, z.imag, kept), -1)

    assert out.dtype == dtype and close(out, turned(q) * scales.double()[positions, None, None], dtype)
    assert close(cache.k[slots // size, :, slots % size], turned(k), dtype)
    assert torch.equal(cache.v[slots // size, :, slots % size], v)
    written = torch.zeros(48, dtype=torch.bool).index_fill(0, slots, True).view(12, size)
    assert not cache.v.transpose(1, 2)[~written].any()


def test_embedding_of_a_part_of_the_vocabulary(ops: Ops, dtype: torch.dtype) -> None:
    weight = torch.randn(10, 4).to(dtype)
    out = ops.embedding(torch.tensor([19, 20, 29, 30, 25]), ops.prepare(weight, Use.HEAD), 20)
    wanted = torch.stack((torch.zeros(4, dtype=dtype), weight[0], weight[9], torch.zeros(4, dtype=dtype), weight[5]))
    assert torch.equal(out, wanted)


def calls(ops: Ops, size: int, dtype: torch.dtype) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every operation whose rows stand alone, as functions of [N, 2 * size]."""
    weight, bias = ops.prepare(torch.randn(24, 2 * size).to(dtype), Use.LINEAR), torch.randn(24).to(dtype)
    norm, table = torch.randn(2 * size).to(dtype), ops.prepare(torch.randn(50, 8).to(dtype), Use.HEAD)
    return {
        "rms_norm": lambda x: ops.rms_norm(x, norm, 1e-5),
        "silu_mul": ops.silu_mul,
        "linear": lambda x: ops.linear(x, weight, bias),
        "linear without bias": lambda x: ops.linear(x, weight, None),
        "embedding": lambda x: ops.embedding(x[:, 0].double().abs().mul(30).long(), table, 5),
    }


@pytest.mark.parametrize("size", [97, 500, 768])
def test_a_row_has_its_bits_in_every_batch(ops: Ops, dtype: torch.dtype, size: int, two_threads: None) -> None:
    x = torch.randn(150, 2 * size).to(dtype)
    for name, call in calls(ops, size, dtype).items():
        whole = call(x)
        for count in COUNTS:
            for begin in {0, (150 - count) // 2, 150 - count}:
                rows = slice(begin, begin + count)
                assert torch.equal(call(x[rows]), whole[rows]), (name, count, begin)
                assert torch.equal(call(x[rows].clone()), whole[rows]), (name, count, begin)


def test_no_rows(ops: Ops, dtype: torch.dtype) -> None:
    shapes = {name: tuple(call(torch.empty(0, 16, dtype=dtype)).shape) for name, call in calls(ops, 8, dtype).items()}
    assert shapes == {
        "rms_norm": (0, 16),
        "silu_mul": (0, 8),
        "linear": (0, 24),
        "linear without bias": (0, 24),
        "embedding": (0, 8),
    }


def test_as_many_torch_operations_for_64_rows_as_for_1(ops: Ops, dtype: torch.dtype) -> None:
    for name, call in calls(ops, 8, dtype).items():
        counts = set()
        for rows in (1, 2, 3, 4, 8, 32, 33, 64):
            x = torch.randn(rows, 16).to(dtype)
            counts.add(count_operations(lambda: call(x)))  # noqa: B023
        assert len(counts) == 1, name


def test_a_wide_residual_is_normed_into_the_weights_dtype() -> None:
    torch.manual_seed(3)
    x, weight = torch.randn(5, 70), torch.randn(70).bfloat16()
    wanted = (x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5) * weight.double()).bfloat16()
    for ops in (make_ops(Numerics(torch.bfloat16), "cpu"), TorchOps(Numerics(torch.bfloat16), torch.device("cpu"))):
        found = ops.rms_norm(x, weight, 1e-5)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), wanted.float(), atol=0.02, rtol=0.01)
        assert torch.equal(ops.rms_norm(x[2:3], weight, 1e-5), found[2:3])
