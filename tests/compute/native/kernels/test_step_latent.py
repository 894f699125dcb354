"""Instructions of latent attention against the torch twin: every variant, type, number of threads; odd sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import THREADS
from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.base import Latents, Numerics
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.packed import PackedSlots
from weft.compute.ops.operations.table import Op
from weft.compute.ops.reference.exact_ops import ExactOps, snap
from weft.compute.ops.reference.torch_ops import TorchOps

pytestmark = pytest.mark.usefixtures("step_library")

CPU = torch.device("cpu")
F32, BF16, F64 = torch.float32, torch.bfloat16, torch.float64
TOLERANCE = {BF16: 2e-2, F32: 1e-5, F64: 1e-13}
SIZES = [(3, 8, 16, 4, 5), (1, 5, 33, 2, 1), (9, 64, 128, 32, 17), (2, 24, 40, 6, 0)]
"""Heads, dims that are not rotated, latent, rotated dims, rows."""


class Case:
    """Rows of two runs, the second after the first, and what they are multiplied with."""

    def __init__(self, sizes: tuple[int, int, int, int, int], dtype: torch.dtype, *, exact: bool = False) -> None:
        self.heads, nope, self.kept, self.rotated, rows = sizes
        self.dtype, self.exact = dtype, exact
        torch.manual_seed(rows)

        def numbers(*shape: int) -> Tensor:
            return torch.randint(-32, 33, shape).float() / 64 if exact else torch.randn(shape, dtype=F64).to(dtype)

        self.q, self.latent = numbers(rows, self.heads * (nope + self.rotated)), numbers(rows, self.kept + self.rotated)
        norm = numbers(self.kept)
        self.to_latent, self.to_value = numbers(self.heads * self.kept, nope), numbers(self.heads * 7, self.kept)
        angles = torch.rand(32, self.rotated // 2, dtype=F64)
        wide = F64 if exact else torch.promote_types(dtype, F32)
        self.way = Latents(norm, 1e-5, self.to_latent, torch.cat((angles.cos(), angles.sin()), 1).to(wide))
        positions = torch.cat((torch.arange(rows - rows // 2), torch.arange(rows // 2))).to(torch.int32)
        slots = (torch.randperm(40, generator=torch.Generator().manual_seed(1))[:rows] + 4).to(torch.int32)
        self.meta = AttentionMeta(positions, slots, torch.zeros(rows).int(), torch.zeros(1, 1).int(), (rows,))

    def cache(self) -> KVCache:
        pages = torch.full((12, 1, 4, self.kept + self.rotated), 7.0, dtype=F64 if self.exact else self.dtype)
        return KVCache(pages, pages)

    def packed(self, variant: str) -> tuple[PackedSlots, PackedSlots]:
        packing = step_cases.packing(variant)
        return packing.pack_slots(self.to_latent, self.heads), packing.pack_slots(self.to_value, self.heads)


def latent_of(case: Case, variant: str, threads: int) -> tuple[Tensor, KVCache]:
    single, cache = run_now(step_cases.pool(variant, threads), case.exact), case.cache()
    to_latent, _ = case.packed(variant)
    found = single.latent(case.q, case.latent, case.way, to_latent, case.meta, cache)
    return found, cache


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_queries_and_latents(variant: str, dtype: torch.dtype, sizes: tuple[int, int, int, int, int]) -> None:
    case = Case(sizes, dtype)
    twin, cache = TorchOps(Numerics(dtype), CPU), case.cache()
    wanted = twin.latent_queries(case.q, case.latent, case.way, case.meta, cache)
    seen = []
    for threads in THREADS:
        found, written = latent_of(case, variant, threads)
        torch.testing.assert_close(found, wanted, atol=TOLERANCE[dtype] * 8, rtol=TOLERANCE[dtype])
        torch.testing.assert_close(written.k, cache.k, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        seen.append((found, written.k))
    assert all(torch.equal(found, seen[0][0]) and torch.equal(pages, seen[0][1]) for found, pages in seen)


def test_the_exact_models_queries_and_latents(variant: str) -> None:
    case = Case((3, 8, 16, 4, 5), F32, exact=True)
    twin, cache = ExactOps(Numerics(F32, exact=True), CPU), case.cache()
    wanted = twin.latent_queries(case.q, case.latent, case.way, case.meta, cache)
    found, written = latent_of(case, variant, 2)
    assert torch.equal(found, wanted) and torch.equal(written.k, cache.k)


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_each_heads_own_product(variant: str, dtype: torch.dtype, sizes: tuple[int, int, int, int, int]) -> None:
    """A row's bits are the same alone, in any batch, with any number of threads."""
    case = Case(sizes, dtype)
    rows, heads, step = sizes[4], case.heads, case.kept + case.rotated
    x, (_, to_value) = torch.randn(rows, heads * step).to(dtype), case.packed(variant)
    wanted = TorchOps(Numerics(dtype), CPU).per_head(x, case.to_value, heads)
    seen = []
    for threads in THREADS:
        out = torch.full((rows, heads * 7), 77.0, dtype=dtype)
        seen.append(run_now(step_cases.pool(variant, threads)).per_head(x, to_value, out, 7))
        torch.testing.assert_close(out, wanted, atol=TOLERANCE[dtype] * 8, rtol=TOLERANCE[dtype])
    assert all(torch.equal(out, seen[0]) for out in seen)
    for row in range(rows):
        alone = torch.empty(1, heads * 7, dtype=dtype)
        run_now(step_cases.pool(variant, 1)).per_head(x[row : row + 1], to_value, alone, 7)
        assert torch.equal(alone[0], seen[0][row])


def test_heads_of_a_product_leave_what_lies_between_them(variant: str) -> None:
    case = Case((3, 8, 16, 4, 5), F32)
    x, (_, to_value) = torch.randn(5, 3 * 20), case.packed(variant)
    wanted = run_now(step_cases.pool(variant, 1)).per_head(x, to_value, torch.empty(5, 21), 7)
    apart = run_now(step_cases.pool(variant, 2)).per_head(x, to_value, torch.full((5, 30), 77.0), 10)
    assert torch.equal(apart.view(5, 3, 10)[..., :7].flatten(1), wanted) and (apart.view(5, 3, 10)[..., 7:] == 77).all()


def test_rows_on_the_exact_models_grid(variant: str) -> None:
    x = torch.randn(7, 45) * 3
    out = step_cases.run(variant, 2, Op.ROUND, torch.empty(7, 45), [x], exact=True)
    assert torch.equal(out, snap(x))
