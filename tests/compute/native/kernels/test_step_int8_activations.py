"""Products of rows rounded to 8 bits with weights in codes: every kind, odd shape, epilogue and instruction set against
the torch twin's numbers in fp64. That bits of a row depend on nothing beside it: test_step_gemm.py.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.kernels.test_step_gemm import CODED, decoded, out_of, rows_among_noise
from tests.compute.native.step_cases import ISAS, form, quantized
from weft.base.weight_formats import kept_blocks
from weft.compute.native import build
from weft.compute.native.records import Epilogue, WeightKind
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.packed import PackedWeight, Packing
from weft.compute.quant.int8_activations import fake_quantize_rows

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

BLOCKS = list(kept_blocks())
SHAPES = [(1, 1), (5, 7), (33, 65), (130, 33), (96, 576), (32, 1540)]


def packed(
    variant: str, weight: Tensor, kind: WeightKind, threads: int = 1, *, interleaved: bool = False
) -> PackedWeight:
    packing = Packing(step_cases.pool(variant, threads), int8_activations=True)
    return packing.pack(weight, form(kind), interleaved=interleaved)


def linear(
    variant: str,
    x: Tensor,
    weight: PackedWeight,
    out: Tensor,
    bias: Tensor | None = None,
    epilogue: Epilogue = Epilogue.STORE,
    threads: int = 1,
) -> Tensor:
    return run_now(step_cases.pool(variant, threads)).linear(x, weight, out, bias, epilogue)


def factors(x: Tensor, weight: Tensor, kind: WeightKind) -> tuple[Tensor, Tensor]:
    """What is multiplied, in fp64."""
    return fake_quantize_rows(x).double(), quantized(weight, kind, as_bf16=False).double()


def allowed(rows: Tensor, values: Tensor, out: torch.dtype) -> Tensor:
    """A few units of fp32 of the sum of magnitudes, and what storing as bf16 costs."""
    return rows.abs() @ values.abs().T * (1e-6 + (2**-8 if out == torch.bfloat16 else 0)) + 1e-30


@pytest.mark.parametrize("depth", [64, 70])
def test_no_rows(depth: int) -> None:
    assert (
        fake_quantize_rows(torch.empty(0, depth)).shape
        == quantized(torch.empty(0, depth), WeightKind.INT4).shape
        == (0, depth)
    )


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_that_of_the_rounded_numbers(variant: str, shape: tuple[int, int], kind: WeightKind) -> None:
    columns, depth = shape
    weight, bias = torch.randn(shape).bfloat16(), torch.randn(columns)
    made = packed(variant, weight, kind)
    for count, given_as, out_dtype in [
        (1, torch.bfloat16, torch.float32),
        (2, torch.float32, torch.float32),
        (5, torch.bfloat16, torch.bfloat16),
        (13, torch.bfloat16, torch.float32),
        (29, torch.float32, torch.bfloat16),
    ]:
        x, out = rows_among_noise(count, depth, given_as), out_of(count, columns, out_dtype)
        linear(variant, x, made, out[:, :columns], bias)
        rows, values = factors(x, weight, kind)
        wanted = rows @ values.T + bias.double()
        assert (
            (out[:, :columns].double() - wanted).abs() <= allowed(rows, values, out_dtype) + bias.abs() * 1e-2
        ).all()
        assert (out[:, columns:] == -7).all()


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("half", [16, 37], ids=str)
def test_gate_and_up_meet_in_the_epilogue(variant: str, half: int, kind: WeightKind) -> None:
    weight = torch.randn(2 * half, 75).bfloat16()
    made = packed(variant, weight, kind, interleaved=True)
    for count in (1, 25):
        x = rows_among_noise(count, 75, torch.bfloat16)
        out = linear(variant, x, made, torch.empty(count, half), None, Epilogue.SILU_MUL_OF)
        rows, values = factors(x, weight, kind)
        gate, up = (rows @ values.T).chunk(2, 1)
        torch.testing.assert_close(out, (F.silu(gate) * up).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_row_that_is_not_finite_stays_so_and_alone(variant: str, bad: float, kind: WeightKind) -> None:
    x = torch.randn(9, 70)
    weight = torch.randn(40, 70)
    made = packed(variant, weight, kind)
    wanted = linear(variant, x, made, torch.empty(9, 40))
    x[4, 33] = bad
    found = linear(variant, x, made, torch.empty(9, 40))
    assert not found[4].isfinite().any()
    assert torch.equal(found[[0, 1, 2, 3, 5, 6, 7, 8]], wanted[[0, 1, 2, 3, 5, 6, 7, 8]])


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
def test_rows_of_nothing_give_nothing(variant: str, kind: WeightKind) -> None:
    made = packed(variant, torch.randn(40, 70), kind)
    for x in (torch.zeros(3, 70), torch.full((3, 70), 1e-38)):
        assert torch.equal(linear(variant, x, made, torch.full((3, 40), 5.0)), torch.zeros(3, 40))


@given(columns=st.integers(1, 70), groups=st.integers(1, 4), rows=st.integers(1, 17), name=st.sampled_from(BLOCKS))
@settings(max_examples=30, deadline=None)
def test_blocks_of_a_file_meet_fake_quantize_rows(columns: int, groups: int, rows: int, name: str) -> None:
    depth = 32 * groups
    raw = step_cases.raw_blocks(name, columns, depth)
    made = Packing(step_cases.pool(ISAS[0], 1), int8_activations=True).pack_blocks(
        step_cases.file_blocks(raw, name, depth)
    )
    x, values = torch.randn(rows, depth).bfloat16(), decoded(raw, name).double()
    given_rows = fake_quantize_rows(x).double()
    found = linear(ISAS[0], x, made, torch.empty(rows, columns)).double()
    # offset and codes are added apart: what they cancel is not seen in the sum of products
    scales = raw[..., :2].contiguous().view(torch.half).double().abs().repeat_interleave(32, 1).flatten(1) * 16
    assert ((found - given_rows @ values.T).abs() <= allowed(given_rows, values.abs() + scales, torch.float32)).all()


@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
def test_slots_are_one_product_each(variant: str, kind: WeightKind) -> None:
    counts = [3, 0, 40, 1]
    packing = Packing(step_cases.pool(variant, 1), int8_activations=True)
    slots = packing.pack_slots(torch.randn(4 * 48, 80), 4, form(kind), interleaved=True)
    x, ends = torch.randn(sum(counts), 80).bfloat16(), torch.tensor(counts).cumsum(0)
    wanted = torch.empty(len(x), 24)
    for part, to, weight in zip(x.split(counts), wanted.split(counts), slots.slots, strict=True):
        linear(variant, part, weight, to, None, Epilogue.SILU_MUL_OF)
    for threads in step_cases.THREADS:
        grouped = run_now(step_cases.pool(variant, threads)).grouped
        assert torch.equal(grouped(x, ends, slots, torch.empty(len(x), 24), Epilogue.SILU_MUL_OF), wanted)


def test_plain_weights_keep_their_rows(variant: str) -> None:
    weight, x = torch.randn(40, 64).bfloat16(), torch.randn(5, 64).bfloat16()
    pool = step_cases.pool(variant, 1)
    found = [
        run_now(pool).linear(x, Packing(pool, rounds).pack(weight), torch.empty(5, 40)) for rounds in (False, True)
    ]
    assert torch.equal(*found)
