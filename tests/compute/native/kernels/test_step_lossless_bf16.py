"""bf16 numbers in 12 bits: every number comes back, and products have the bits of those with the numbers whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import ISAS, form
from weft.compute.native import build
from weft.compute.native.records import Epilogue, WeightKind
from weft.compute.ops.native.arena import Arena
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.packed import PackedWeight, Packing

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

SHAPES = [(1, 1), (5, 7), (33, 65), (48, 31), (70, 100), (130, 33), (96, 576), (64, 1536), (40, 611)]
ROWS = (1, 2, 3, 4, 7, 8, 11, 12, 13, 20, 21, 24, 25, 37, 61, 128, 129, 200)
"""Few rows, tiles, several of them, and more than kernels decompress in registers."""


def bits(x: Tensor) -> Tensor:
    """Distinguishes zeros of both signs and NaN."""
    return x.contiguous().view(torch.int16)


def far(weight: PackedWeight) -> int:
    """How many numbers of a group lie apart, summed over all groups."""
    groups = weight.scale.view(-1, 8)
    return int(groups[:, 4:6].contiguous().view(torch.int16).sum())


def long_tailed(shape: tuple[int, int]) -> Tensor:
    """As trained weights are, and more of them far from the others' exponents; zeros, and what is subnormal."""
    weight = 0.05 * torch.distributions.StudentT(torch.tensor(3.0)).sample(shape)
    weight[torch.rand(shape) < 5e-4] *= 0
    weight[torch.rand(shape) < 1e-4] *= -1e-39
    return weight.bfloat16()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_number_comes_back(packing: Packing, shape: tuple[int, int]) -> None:
    for weight in (torch.randn(shape).bfloat16(), long_tailed(shape), torch.zeros(shape).bfloat16()):
        made = packing.pack(weight, form(WeightKind.BF16_12BIT))
        assert made.kind == WeightKind.BF16_12BIT and made.shape == shape
        assert torch.equal(bits(made.unpacked()), bits(weight))
        if shape[0] % 2 == 0:
            gated = packing.pack(weight, form(WeightKind.BF16_12BIT), interleaved=True)
            assert torch.equal(bits(gated.unpacked()), bits(weight))
    strided = torch.randn(shape[0], shape[1] + 3).bfloat16()[:, : shape[1]]
    assert torch.equal(packing.pack(strided, form(WeightKind.BF16_12BIT)).unpacked(), strided)
    wide = strided.float()
    assert torch.equal(packing.pack(wide, form(WeightKind.BF16_12BIT)).unpacked(), wide)


def test_what_is_far_is_kept_apart(packing: Packing) -> None:
    """A group has 16 exponents: not that of a number 2^16 times as small as others, nor of an infinite one."""
    weight = torch.ones(32, 64, dtype=torch.bfloat16)
    assert far(packing.pack(weight * 1.5 * 2**-15 + weight.tril(), form(WeightKind.BF16_12BIT))) == 0
    weight[3, 5], weight[31, 31], weight[0, 33], weight[7, 63] = 2**-16, -(2**-20), float("inf"), float("nan")
    made = packing.pack(weight, form(WeightKind.BF16_12BIT))
    assert far(made) == 4
    assert torch.equal(made.rows(0, 32).view(torch.int32), weight.float().view(torch.int32))
    lone = packing.pack(torch.full((1, 1), 2.0**100, dtype=torch.bfloat16), form(WeightKind.BF16_12BIT))
    assert far(lone) == 0 and lone.unpacked().item() == 2.0**100


def test_numbers_without_neighbours_stay_whole(packing: Packing) -> None:
    """More of them far than there is room for: a product with such a matrix would not be faster."""
    weight = (torch.randn(64, 96) * 2.0 ** torch.randint(-60, 60, (64, 96))).bfloat16()
    made = packing.pack(weight, form(WeightKind.BF16_12BIT))
    assert made.kind == WeightKind.BF16
    assert torch.equal(made.unpacked(), weight)


def test_what_was_tried_in_vain_takes_no_memory(packing: Packing) -> None:
    wide = (torch.randn(64, 96) * 2.0 ** torch.randint(-60, 60, (64, 96))).bfloat16()
    near = torch.randn(64, 96).bfloat16()
    arena = Arena(1 << 17)
    before = packing.pack(near, form(WeightKind.BF16_12BIT), arena=arena)
    made = packing.pack(wide, form(WeightKind.BF16_12BIT), arena=arena)
    after = packing.pack(near, form(WeightKind.BF16_12BIT), arena=arena)
    assert [each.kind for each in (before, made, after)] == [
        WeightKind.BF16_12BIT,
        WeightKind.BF16,
        WeightKind.BF16_12BIT,
    ]

    def line(size: int) -> int:
        return -(-size // 64) * 64

    at = before.offset.data_ptr() + line(before.offset.nbytes)
    for part in (made.data, after.data, after.scale, after.offset):
        assert part.data_ptr() == at
        at += line(part.nbytes)
    for each, weight in ((before, near), (made, wide), (after, near)):
        assert torch.equal(bits(each.unpacked()), bits(weight))


@pytest.mark.parametrize("largest", [0, 3, 40])
def test_powers_of_two_are_near(packing: Packing, largest: int) -> None:
    """2^lowest has no code of its own, so the exponents begin below the numbers' least."""
    weight = (2.0 ** torch.randint(largest - 5, largest + 1, (64, 96)) * torch.randn(64, 96).sign()).bfloat16()
    made = packing.pack(weight, form(WeightKind.BF16_12BIT))
    assert made.kind == WeightKind.BF16_12BIT and far(made) == 0
    assert torch.equal(bits(made.unpacked()), bits(weight))


def test_slots_are_not_compressed() -> None:
    with pytest.raises(ValueError, match="the memory of an expert slot has one size"):
        step_cases.packing(ISAS[0]).pack_slots(torch.randn(64, 32).bfloat16(), 2, form(WeightKind.BF16_12BIT))


def test_a_quarter_of_the_bytes_is_saved() -> None:
    weight = torch.randn(960, 576).bfloat16()
    whole, made = (
        step_cases.packing(ISAS[0]).pack(weight, form(kind)) for kind in (WeightKind.BF16, WeightKind.BF16_12BIT)
    )
    assert 0.75 < made.nbytes / whole.nbytes < 0.76


def test_a_signalling_nan_comes_back() -> None:
    weight = torch.tensor([[0x7DFF, 0x7F89]], dtype=torch.int16).view(torch.bfloat16)
    made = step_cases.packing(ISAS[0]).pack(weight, form(WeightKind.BF16_12BIT))
    assert torch.equal(made.rows(0, 1).view(torch.int32), weight.view(torch.int16).int() << 16)


@given(data=st.data(), columns=st.integers(1, 70), depth=st.integers(1, 70))
@settings(max_examples=60)
def test_any_bits_come_back(data: st.DataObject, columns: int, depth: int) -> None:
    """Exponents around one that is drawn, any sign and fraction."""
    middle, width = data.draw(st.integers(0, 255)), data.draw(st.integers(0, 20))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))

    def draw(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (columns, depth), generator=generator)

    exponents = (middle + draw(-width, width + 1)).clamp(0, 255)
    weight = (draw(0, 2) << 15 | exponents << 7 | draw(0, 128)).to(torch.int16).view(torch.bfloat16)
    made = step_cases.packing(ISAS[0]).pack(weight, form(WeightKind.BF16_12BIT))
    whole = step_cases.packing(ISAS[0]).pack(weight)
    wanted = weight.view(torch.int16).int() << 16
    for each in (made, whole):
        assert torch.equal(each.rows(0, columns).view(torch.int32), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_have_the_bits_of_whole_numbers(variant: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    columns, depth = shape
    weight = long_tailed(shape)
    for threads in (1, 2):
        here = step_cases.packing(variant, threads)
        whole, made = (
            here.pack(weight, form(kind), arena=Arena()) for kind in (WeightKind.BF16, WeightKind.BF16_12BIT)
        )
        assert made.kind == WeightKind.BF16_12BIT
        if columns * depth > 50_000:
            assert far(made) > 0
        single = run_now(here.pool, False)
        for count in ROWS:
            x = torch.full((count + 1, depth + 3), float("nan"), dtype=dtype)[:count, :depth]
            x.copy_(torch.randn(count, depth))
            wanted, found = torch.zeros(count, columns), torch.full((count, columns), -7.0)
            single.linear(x, whole, wanted, None, Epilogue.STORE)
            single.linear(x, made, found, None, Epilogue.STORE)
            assert torch.equal(found, wanted), (threads, count)


def test_gates_meet_in_the_epilogue_and_rows_are_embeddings(packing: Packing) -> None:
    weight = long_tailed((96, 75))
    whole, made = (
        packing.pack(weight, form(kind), interleaved=True) for kind in (WeightKind.BF16, WeightKind.BF16_12BIT)
    )
    single, x = run_now(packing.pool, False), torch.randn(29, 75).bfloat16()
    wanted, found = torch.zeros(29, 48), torch.full((29, 48), -7.0)
    single.linear(x, whole, wanted, None, Epilogue.SILU_MUL_OF)
    single.linear(x, made, found, None, Epilogue.SILU_MUL_OF)
    assert torch.equal(found, wanted)
    table = packing.pack(weight, form(WeightKind.BF16_12BIT))
    ids = torch.tensor([0, 95, 33, 33, 7])
    found, wanted = (
        run_now(packing.pool).embedding(ids[:, None], each, 0, torch.bfloat16) for each in (table, packing.pack(weight))
    )
    assert torch.equal(bits(found), bits(wanted))
    assert torch.equal(found[weight[ids].abs() > 1e-30], weight[ids][weight[ids].abs() > 1e-30])
