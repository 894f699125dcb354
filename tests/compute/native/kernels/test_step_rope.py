"""Packed qkv rows: q/k norm, rotation, cache write, against the torch twins; then attention reads what was written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import THREADS
from weft.compute.native.records import StepRecord
from weft.compute.ops import AttentionMeta, KVCache, Numerics
from weft.compute.ops.operations.attention import (
    BLOCK_SIZE,
    COS_SIN,
    HEAD_DIM,
    K_CACHE,
    K_NORM,
    KV_HEADS,
    PACKED_CACHE,
    Q_HEADS,
    Q_NORM,
    Q_SCALE,
    ROPE_DIM,
    V_CACHE,
)
from weft.compute.ops.operations.dense import EPS
from weft.compute.ops.operations.table import Op
from weft.compute.ops.reference.exact_ops import ExactOps, snap
from weft.compute.ops.reference.torch_ops import TorchOps, rotate, write_cache

pytestmark = pytest.mark.usefixtures("step_library")

CPU = torch.device("cpu")
SMALL = 1e-6
TOLERANCE = {torch.bfloat16: 1.6e-2, torch.float32: 2e-6, torch.float64: 1e-14}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Shape:
    kv_of_head: tuple[int, ...]
    kv_heads: int
    dim: int
    rope_dim: int
    block_size: int
    normed: bool = False
    scaled: bool = False


@dataclass(frozen=True)
class Case:
    x: Tensor
    meta: AttentionMeta
    cos_sin: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    q_scale: Tensor | None = None


VALUE_GROUP = {"amx": 32}
"""Tokens whose values are read together, where these are not two."""
RUNS = ((0, 37), (5, 1), (60, 1), (31, 3), (47, 18))
SHAPES = {
    "grouped": Shape((0, 0, 0, 1, 1, 1, 2, 2, 2), 3, 64, 64, 32),
    "normed": Shape((0, 1, 1), 2, 32, 32, 16, normed=True),
    "partial": Shape((0, 0, 1), 2, 40, 20, 16, normed=True),
    "kept": Shape((0, 0, 1), 2, 20, 0, 16, normed=True),
    "scaled": Shape((0, 0, 1), 2, 36, 12, 16, scaled=True),
    "tiny": Shape((0, 1), 3, 2, 2, 16),  # a KV head without query heads
    "wide": Shape((0, 0), 1, 128, 128, 64),
}


def make(shape: Shape, wide: torch.dtype, runs: tuple[tuple[int, int], ...] = RUNS) -> Case:
    generator = torch.Generator().manual_seed(5)
    heads = len(shape.kv_of_head) + 2 * shape.kv_heads
    rows = sum(count for _, count in runs)
    x = torch.randn(rows, heads * shape.dim + 4, generator=generator, dtype=torch.float64)[:, : heads * shape.dim]
    width = max(-(-(start + count) // shape.block_size) for start, count in runs)
    order = (torch.randperm(width * len(runs), generator=generator) + 1).reshape(len(runs), width)
    positions = torch.cat([torch.arange(start, start + count) for start, count in runs])
    owner = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor([count for _, count in runs]))
    slots = order[owner, positions // shape.block_size] * shape.block_size + positions % shape.block_size
    ends = torch.tensor([count for _, count in runs]).cumsum(0).tolist()
    meta = AttentionMeta(positions.int(), slots.int(), owner.int(), order.int(), tuple(ends))
    angles = torch.rand(512, shape.rope_dim // 2, generator=generator, dtype=torch.float64) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), -1).to(wide)
    norms = torch.randn(2, shape.dim, generator=generator, dtype=torch.float64).to(wide)
    q_norm, k_norm = (norms[0].contiguous(), norms[1].contiguous()) if shape.normed else (None, None)
    scales = 1 + torch.rand(512, generator=generator, dtype=torch.float64).to(wide) if shape.scaled else None
    return Case(x.to(wide), meta, cos_sin, q_norm, k_norm, scales)


def empty_cache(shape: Shape, case: Case, dtype: torch.dtype) -> KVCache:
    blocks = int(case.meta.block_tables.max()) + 1
    k = torch.full((blocks, shape.kv_heads, shape.block_size, shape.dim), torch.nan, dtype=dtype)
    return KVCache(k, k.clone())


def run(
    variant: str, threads: int, shape: Shape, case: Case, out: Tensor, cache: KVCache, packed: bool, exact: bool
) -> None:
    meta = case.meta
    step = StepRecord(
        positions=meta.positions.data_ptr(), slots=meta.slots.data_ptr(), run_of_row=meta.run_of_row.data_ptr()
    )
    n = {
        Q_HEADS: len(shape.kv_of_head),
        KV_HEADS: shape.kv_heads,
        HEAD_DIM: shape.dim,
        BLOCK_SIZE: shape.block_size,
        ROPE_DIM: shape.rope_dim,
        PACKED_CACHE: int(packed),
    }
    p: dict[int, Tensor | None] = {K_CACHE: cache.k, V_CACHE: cache.v, COS_SIN: case.cos_sin}
    p |= {Q_NORM: case.q_norm, K_NORM: case.k_norm, Q_SCALE: case.q_scale}
    strides = (cache.k.stride(0), cache.k.stride(1))
    step_cases.run(
        variant, threads, Op.QKV, out, [case.x], step, n=n, f={EPS: SMALL}, p=p, strides=strides, exact=exact
    )


def twin(shape: Shape, case: Case, cache: KVCache, exact: bool) -> Tensor:
    """q in fp64 (fp32 of the exact model); writes the cache."""
    ops: TorchOps = (
        ExactOps(Numerics(torch.float32, exact=True), CPU) if exact else TorchOps(Numerics(torch.float64), CPU)
    )
    a, b = len(shape.kv_of_head) * shape.dim, (len(shape.kv_of_head) + shape.kv_heads) * shape.dim
    x = case.x if exact else case.x.double()
    q, k, v = (part.unflatten(1, (-1, shape.dim)) for part in (x[:, :a], x[:, a:b], x[:, b:]))
    if case.q_norm is not None and case.k_norm is not None:
        q, k = ops.rms_norm(q, case.q_norm.to(x.dtype), SMALL), ops.rms_norm(k, case.k_norm.to(x.dtype), SMALL)
    cos, sin = case.cos_sin.double()[case.meta.positions.long()].unsqueeze(1).chunk(2, -1)

    def turned(y: Tensor) -> Tensor:
        return torch.cat((rotate(y[..., : shape.rope_dim].double(), cos, sin), y[..., shape.rope_dim :].double()), -1)

    scale = 1.0 if case.q_scale is None else case.q_scale.double()[case.meta.positions.long(), None, None]
    settle = snap if exact else torch.Tensor.double
    write_cache(settle(turned(k)), settle(v.double()), case.meta.slots, cache)
    return settle(turned(q) * scale).flatten(1)


def unpacked(cache: KVCache) -> KVCache:
    blocks, heads, size, dim = cache.k.shape
    k = cache.k.view(blocks, heads, size // 16, dim // 2, 16, 2).transpose(3, 4).reshape(cache.k.shape)
    v = cache.v.view(blocks, heads, size // 2, dim, 2).transpose(3, 4).reshape(cache.v.shape)
    return KVCache(k, v)


def close(out: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert torch.equal(out.isnan(), wanted.isnan())
    difference = (out.double() - wanted.double()).nan_to_num(0).abs() / (1 + wanted.double().nan_to_num(0).abs())
    assert difference.max() < tolerance


@pytest.mark.parametrize("kind", [*DTYPES, "packed"])
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_twin(variant: str, kind: str, name: str) -> None:
    shape, packed, dtype = SHAPES[name], kind == "packed", DTYPES.get(kind, torch.bfloat16)
    case = make(shape, torch.promote_types(dtype, torch.float32))
    wanted_cache = empty_cache(shape, case, torch.float64)
    wanted = twin(shape, case, wanted_cache, exact=False)
    seen = []
    for threads in THREADS:
        cache, out = empty_cache(shape, case, dtype), torch.full(wanted.shape, torch.nan, dtype=dtype)
        run(variant, threads, shape, case, out, cache, packed, exact=False)
        close(out, wanted, TOLERANCE[dtype])
        plain = unpacked(cache) if packed else cache
        close(plain.k, wanted_cache.k, TOLERANCE[dtype])
        if packed:  # zeros follow the last value of a pair or group that was begun
            for group in (*wanted_cache.v.split(2, 2), *wanted_cache.v.split(VALUE_GROUP.get(variant, 2), 2)):
                begun = ~group[:, :, 0, 0].isnan()
                group[begun] = group[begun].nan_to_num(0.0)
        close(plain.v, wanted_cache.v, TOLERANCE[dtype])
        seen.append((out, plain))
    for out, plain in seen:
        assert torch.equal(out, seen[0][0])
        assert torch.equal(plain.k.nan_to_num(9), seen[0][1].k.nan_to_num(9))


@pytest.mark.parametrize("name", SHAPES)
def test_exact_mode_equals_the_exact_model(variant: str, name: str) -> None:
    shape = SHAPES[name]
    case = make(shape, torch.float64)
    norms = [None if x is None else snap(x).double() for x in (case.q_norm, case.k_norm)]
    case = Case(snap(case.x), case.meta, case.cos_sin, norms[0], norms[1], case.q_scale)
    wanted_cache = empty_cache(shape, case, torch.float64)
    wanted = twin(shape, case, wanted_cache, exact=True)
    for threads in THREADS:
        cache, out = empty_cache(shape, case, torch.float64), torch.full_like(wanted, torch.nan)
        run(variant, threads, shape, case, out, cache, packed=False, exact=True)
        assert torch.equal(out, wanted)
        assert torch.equal(cache.k.nan_to_num(9), wanted_cache.k.nan_to_num(9))
        assert torch.equal(cache.v.nan_to_num(9), wanted_cache.v.nan_to_num(9))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_cut_into_chunks_writes_the_same_pages(variant: str, data: st.DataObject) -> None:
    block = data.draw(st.sampled_from((16, 32, 64)))
    shape = Shape((0, 1, 1), 2, 2 * data.draw(st.integers(1, 40)), 2, block)
    length = data.draw(st.integers(1, 150))
    case = make(shape, torch.float32, ((0, length),))
    whole, out = empty_cache(shape, case, torch.bfloat16), torch.zeros(length, 3 * shape.dim, dtype=torch.bfloat16)
    run(variant, 1, shape, case, out, whole, packed=True, exact=False)
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=6))) if length > 1 else []
    pieces, parts = empty_cache(shape, case, torch.bfloat16), []
    for begin, end in zip([0, *cuts], [*cuts, length], strict=True):
        meta = case.meta
        rows = slice(begin, end)
        meta = AttentionMeta(
            meta.positions[rows], meta.slots[rows], meta.run_of_row[rows], meta.block_tables, (end - begin,)
        )
        part = Case(case.x[rows], meta, case.cos_sin, None, None)
        parts.append(torch.zeros(end - begin, 3 * shape.dim, dtype=torch.bfloat16))
        run(variant, data.draw(st.integers(1, 3)), shape, part, parts[-1], pieces, packed=True, exact=False)
    assert torch.equal(torch.cat(parts), out)
    for one, other in ((pieces.k, whole.k), (pieces.v, whole.v)):
        assert torch.equal(one.nan_to_num(9), other.nan_to_num(9))
