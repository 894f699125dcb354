"""Codes of 4 bits that lie column by column: what they are looked up in, and that products are those of their numbers.

The answer key of what codes stand for is the formula in torch; of products, the same numbers as a matrix of bf16. Where
the CPU has no tile registers codes do not lie so, and there is nothing to look up: products are tried all the same.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.kernels.test_step_gemm import rows_among_noise
from tests.compute.native.step_cases import ISAS
from tests.support.native_libraries import SHARED
from weft.base.weight_formats import FORMATS
from weft.compute.native import build
from weft.compute.native.records import Epilogue, WeightKind
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.lut import LookupTables
from weft.compute.ops.native.packed import PackedWeight, Packing
from weft.compute.quant.int4 import VALUES

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

NAMES = ("rounded", "Q4_0", "Q4_1")
ROWS = (1, 2, 4, 5, 8, 9, 12, 13, 15, 16, 17, 20, 31, 32, 33, 64, 65)


def packed(packing: Packing, columns: int, depth: int, form: str, interleaved: bool = False) -> PackedWeight:
    """Numbers of very different size, so that scales differ."""
    if form == "rounded":
        weight = torch.randn(columns, depth) * torch.logspace(-3, 1, columns)[:, None]
        return packing.pack(weight, step_cases.form(WeightKind.INT4), interleaved=interleaved)
    raw = step_cases.raw_blocks(form, columns, depth)
    return packing.pack_blocks(step_cases.file_blocks(raw, form, depth), interleaved=interleaved)


LOOKS_UP = ISAS[0] == "amx"
"""Whether codes lie by columns, and numbers are looked up where a word stands for them."""


def test_where_there_are_tile_registers_codes_lie_by_columns() -> None:
    """16-bit words of four columns each: the first group's second word has the codes of depth 1."""
    packing = step_cases.packing(ISAS[0])
    raw = torch.zeros(32, FORMATS["Q4_0"].nbytes, dtype=torch.uint8)
    raw[:4, 3] = torch.arange(1, 5).to(torch.uint8)
    made = packing.pack_blocks(step_cases.file_blocks(raw, "Q4_0", 32))
    assert (made.data.view(torch.uint16)[1].item() == 0x4321) == LOOKS_UP
    assert made.record.lut == (made.lut.data_ptr() or None)
    assert bool(made.record.lut) == LOOKS_UP


@pytest.mark.parametrize("short", [False, True], ids=["fp16", "short"])
@pytest.mark.parametrize("lowest", [0, -8])
def test_numbers_of_every_scale_are_those_of_the_formula(short: bool, lowest: int) -> None:
    packing = step_cases.packing(ISAS[0])
    table = VALUES + lowest
    found = LookupTables(packing.pool.lib).of(table, short)
    if not LOOKS_UP:
        assert not len(found)
        return
    words = torch.arange(1 << 16)
    halves = (words >> 1) & 0x7FE0 if short else words
    scale = halves.to(torch.uint16).view(torch.half).float()
    offset = (words & 63).float() * -0.25 * scale if short else torch.zeros_like(scale)
    wanted = (table.float() * scale[:, None] + offset[:, None]).bfloat16()
    numbers = found.view(torch.bfloat16).view(1 << 16, 16)
    assert torch.equal(numbers.isnan(), wanted.isnan())
    assert torch.equal(numbers.nan_to_num(7), wanted.nan_to_num(7))


def test_weights_of_one_form_share_what_they_look_up() -> None:
    packing = step_cases.packing(ISAS[0])
    by_form = {form: [packed(packing, 40, 64, form).lut for _ in range(2)] for form in NAMES}
    for form, (first, second) in by_form.items():
        assert first.data_ptr() == second.data_ptr()
        assert bool(len(first)) == (LOOKS_UP and not form == "Q4_1")
    if LOOKS_UP:
        assert by_form["rounded"][0].data_ptr() != by_form["Q4_0"][0].data_ptr()
    rounding = Packing(packing.pool, int8_activations=True)
    assert not len(packed(rounding, 40, 64, "rounded").lut)


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize("depth", [1, 31, 32, 33, 94, 576])
def test_every_number_of_rows_has_the_bits_of_the_bf16_matrix(form: str, depth: int) -> None:
    columns = 70
    for threads in (1, 2):
        packing = step_cases.packing(ISAS[0], threads)
        made = packed(packing, columns, depth, form)
        plain = packing.pack(made.rows(0, columns).bfloat16(), step_cases.form(WeightKind.BF16))
        one = run_now(packing.pool)
        for count in ROWS:
            x = rows_among_noise(count, depth, torch.bfloat16)
            out = [one.linear(x, each, torch.empty(count, columns)) for each in (made, plain)]
            assert torch.equal(*out), count


@given(
    half=st.integers(1, 40),
    depth=st.integers(1, 130),
    rows=st.integers(1, 40),
    form=st.sampled_from(NAMES),
    epilogue=st.sampled_from([Epilogue.STORE, Epilogue.SILU_MUL_OF, Epilogue.ADD_TO]),
)
@settings(max_examples=60, deadline=None)
def test_epilogues_follow_as_behind_other_products(half: int, depth: int, rows: int, form: str, epilogue: int) -> None:
    packing = step_cases.packing(ISAS[0], 2)
    gated = epilogue == Epilogue.SILU_MUL_OF
    made = packed(packing, 2 * half, depth, form, gated)
    plain = packing.pack(made.rows(0, 2 * half).bfloat16(), step_cases.form(WeightKind.BF16), interleaved=gated)
    x, bias = torch.randn(rows, depth).bfloat16(), torch.randn(2 * half)

    def product(weight: PackedWeight) -> Tensor:
        out = torch.ones(rows, half if gated else 2 * half)
        return run_now(packing.pool).linear(x, weight, out, bias, Epilogue(epilogue))

    torch.testing.assert_close(product(made), product(plain), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("depth", [1, 31, 33])
@pytest.mark.parametrize("rows", [1, 5, 20])
def test_what_a_thread_multiplied_before_counts_for_nothing(rows: int, depth: int) -> None:
    packing = step_cases.packing(ISAS[0])
    one = run_now(packing.pool)
    made, deeper = (packed(packing, 40, each, "rounded") for each in (depth, 256))
    x = torch.randn(rows, depth).bfloat16()
    first = one.linear(x, made, torch.empty(rows, 40))
    one.linear(torch.full((rows, 256), torch.nan).bfloat16(), deeper, torch.empty(rows, 40))
    assert torch.equal(one.linear(x, made, torch.empty(rows, 40)), first)


@pytest.mark.parametrize("variant", [each for each in ISAS if each not in (*SHARED, "avx2")])
@pytest.mark.parametrize("rows", [1, 3, 17, 40])
def test_what_lies_behind_the_depth_counts_for_nothing(rows: int, variant: str) -> None:
    """A last block whose scale is infinite: its codes after the depth, which stand for NaN, are not multiplied.
    (AVX2, and AVX-512 without bf16, round finite numbers only: `near_bf16`.)"""
    packing = step_cases.packing(variant)
    raw = torch.full((40, 2, FORMATS["Q4_0"].nbytes), 0x8F, dtype=torch.uint8)  # 7 first, then 0
    raw[..., :2] = torch.tensor([1.0, torch.inf]).half().view(torch.uint8).view(2, 2)
    made = packing.pack_blocks(step_cases.file_blocks(raw, "Q4_0", 32 + 16))
    out = run_now(packing.pool).linear(torch.ones(rows, 48).bfloat16(), made, torch.empty(rows, 40))
    assert (out == torch.inf).all()
