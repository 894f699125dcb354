"""Packing and the product of packed weights: every kind, epilogue, odd shape and instruction set against torch.

The answer key of a product is fp64 over the numbers that the packed weight stands for; the bits of a row must be the
same alone, in any batch, with any number of threads, at any place.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import ISAS, form, quantized
from weft.base.weight_formats import kept_blocks
from weft.compute.native import build
from weft.compute.native.records import Epilogue, WeightKind
from weft.compute.ops.native.arena import Arena
from weft.compute.ops.native.immediate import run_now
from weft.compute.ops.native.packed import PackedWeight, Packing
from weft.compute.ops.reference.exact_ops import snap

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler on this machine")

SHAPES = [(1, 1), (5, 7), (33, 65), (32, 64), (130, 33), (96, 500)]
CODED = [WeightKind.INT8, WeightKind.INT4, WeightKind.INT8G]
BLOCKS = list(kept_blocks())
PLAIN = {WeightKind.F32: torch.float32, WeightKind.BF16: torch.bfloat16, WeightKind.F64: torch.float64}


FORMS = [
    pytest.param(kind, rounds, id=f"{kind.name}{', rows of 8 bits' * rounds}")
    for kind, rounds in (*((kind, False) for kind in (*PLAIN, *CODED)), *((kind, True) for kind in CODED))
]
"""Kind, and whether rows are rounded to 8 bits."""


def packing_of(variant: str, rounds: bool) -> Packing:
    return Packing(step_cases.pool(variant, 1), int8_activations=rounds)


def linear(
    packing: Packing,
    x: Tensor,
    weight: PackedWeight,
    out: Tensor,
    bias: Tensor | None = None,
    epilogue: Epilogue = Epilogue.STORE,
    *,
    exact: bool = False,
) -> Tensor:
    return run_now(packing.pool, exact).linear(x, weight, out, bias, epilogue)


def rows_among_noise(count: int, depth: int, dtype: torch.dtype) -> Tensor:
    """[count, depth] inside a wider buffer of NaN: what lies after a row must never be multiplied."""
    buffer = torch.full((count + 1, depth + 3), float("nan"), dtype=dtype)
    buffer[:count, :depth] = torch.randn(count, depth).to(dtype)
    return buffer[:count, :depth]


def out_of(count: int, columns: int, dtype: torch.dtype) -> Tensor:
    """[count, columns] of a wider buffer, to see that nothing else is written."""
    return torch.full((count, columns + 5), -7.0, dtype=dtype)


def values_of(weight: Tensor, kind: WeightKind) -> Tensor:
    return weight.double() if kind in PLAIN else quantized(weight, kind).double()


@pytest.mark.parametrize("kind", list(PLAIN), ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_plain_weight_comes_back_as_it_was(packing: Packing, shape: tuple[int, int], kind: WeightKind) -> None:
    weight = torch.randn(shape).to(PLAIN[kind])
    made = packing.pack(weight)
    assert made.kind == kind and made.shape == shape
    assert torch.equal(made.unpacked(), weight)
    lo, hi = shape[0] // 3, shape[0] - shape[0] // 4
    assert torch.equal(made.rows(lo, hi), weight[lo:hi].to(made.rows(0, 0).dtype))
    strided = torch.randn(shape[0], shape[1] + 3).to(PLAIN[kind])[:, : shape[1]]
    assert torch.equal(packing.pack(strided).unpacked(), strided)
    if shape[0] % 2 == 0:
        assert torch.equal(packing.pack(weight, interleaved=True).unpacked(), weight)


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(1, 1), (48, 31), (130, 33)], ids=str)
def test_codes_stand_for_what_the_twin_says(
    packing: Packing, shape: tuple[int, int], kind: WeightKind, source: torch.dtype
) -> None:
    weight = (torch.randn(shape) * torch.logspace(-6, 2, shape[0])[:, None]).to(source)
    weight[shape[0] // 2] = 0
    made = packing.pack(weight, form(kind))
    assert torch.equal(made.rows(0, shape[0]), quantized(weight, kind))
    assert made.unpacked().dtype == source
    if kind == WeightKind.INT8:
        peaks = weight.float().abs().amax(1) * 3
        assert torch.equal(
            packing.pack(weight, form(kind), peaks=peaks).rows(0, shape[0]), quantized(weight, kind, peaks=peaks)
        )
    if shape[0] % 2 == 0:
        assert torch.equal(
            packing.pack(weight, form(kind), interleaved=True).rows(0, shape[0]), quantized(weight, kind)
        )


@pytest.mark.parametrize("kind", [*PLAIN, *CODED], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_that_of_the_numbers(packing: Packing, shape: tuple[int, int], kind: WeightKind) -> None:
    columns, depth = shape
    for dtype in _activations(kind):
        weight = torch.randn(shape).to(PLAIN.get(kind, torch.bfloat16))
        made, values = packing.pack(weight, form(kind)), values_of(weight, kind)
        wide = torch.float64 if kind == WeightKind.F64 else torch.float32
        bias = torch.randn(columns, dtype=wide)
        for count, out_dtype in [(1, wide), (2, wide), (3, torch.bfloat16), (13, wide), (29, torch.bfloat16)]:
            x, out = rows_among_noise(count, depth, dtype), out_of(count, columns, out_dtype)
            linear(packing, x, made, out[:, :columns], bias)
            wanted = x.double() @ values.T + bias.double()
            assert ((out[:, :columns].double() - wanted).abs() <= _allowed(x, values, wanted, out_dtype)).all()
            assert (out[:, columns:] == -7).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [WeightKind.BF16, WeightKind.F32, *CODED], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(64, 96), (64, 22)], ids=str)
def test_blocks_of_rows_of_whole_pairs(variant: str, shape: tuple[int, int], kind: WeightKind, threads: int) -> None:
    """Nothing but products, so that a block's rows may be finished beside the next one's."""
    columns, depth = shape
    packing = step_cases.packing(variant, threads)
    dtype = torch.float32 if kind == WeightKind.F32 else torch.bfloat16
    weight = torch.randn(shape).to(dtype)
    made, values = packing.pack(weight, form(kind)), values_of(weight, kind)
    for out_dtype in (torch.bfloat16, torch.float32):
        for count in (*range(11, 28), 36, 47):
            x, out = rows_among_noise(count, depth, dtype), out_of(count, columns, out_dtype)
            linear(packing, x, made, out[:, :columns])
            wanted = x.double() @ values.T
            assert ((out[:, :columns].double() - wanted).abs() <= _allowed(x, values, wanted, out_dtype)).all(), count


def _activations(kind: WeightKind) -> list[torch.dtype]:
    if kind == WeightKind.F64:
        return [torch.float64]
    return [torch.float32] if kind == WeightKind.F32 else [torch.bfloat16, torch.float32]


def _allowed(x: Tensor, values: Tensor, wanted: Tensor, out: torch.dtype) -> Tensor:
    """A few units of fp32 (fp64) of the sum of magnitudes, and what storing as bf16 costs."""
    sums = x.double().abs() @ values.abs().T + wanted.abs()
    return sums * (1e-14 if out == torch.float64 else 1e-6) + (wanted.abs() * 2**-8 if out == torch.bfloat16 else 0)


@pytest.mark.parametrize("kind", [WeightKind.BF16, WeightKind.F32, *CODED], ids=lambda kind: kind.name)
@pytest.mark.parametrize("half", [1, 24, 37], ids=str)
def test_gate_and_up_meet_in_the_epilogue(packing: Packing, half: int, kind: WeightKind) -> None:
    depth = 75
    dtype = torch.float32 if kind == WeightKind.F32 else torch.bfloat16
    weight = torch.randn(2 * half, depth).to(dtype)
    made, values = packing.pack(weight, form(kind), interleaved=True), values_of(weight, kind)
    bias = torch.randn(2 * half)
    for count, out_dtype in [(1, torch.float32), (3, torch.bfloat16), (25, torch.float32)]:
        x, out = rows_among_noise(count, depth, dtype), out_of(count, half, out_dtype)
        linear(packing, x, made, out[:, :half], bias, Epilogue.SILU_MUL_OF)
        gate, up = (x.double() @ values.T + bias.double()).chunk(2, 1)
        wanted = (F.silu(gate) * up).float()
        relative, absolute = (2**-8, 1e-2) if out_dtype == torch.bfloat16 else (1e-4, 1e-4)
        torch.testing.assert_close(out[:, :half].float(), wanted, rtol=relative, atol=absolute)
        assert (out[:, half:] == -7).all()


@pytest.mark.parametrize(("out_dtype", "relative"), [(torch.bfloat16, 4e-3), (torch.float32, 1e-5)], ids=str)
def test_gates_of_any_size(packing: Packing, out_dtype: torch.dtype, relative: float) -> None:
    gate = torch.cat((torch.linspace(-150, 150, 4001), torch.tensor([-1e4, 1e4, torch.nan, torch.inf])))
    made = packing.pack(torch.zeros(2 * len(gate), 1), interleaved=True)
    out, bias = torch.empty(1, len(gate), dtype=out_dtype), torch.cat((gate, torch.ones_like(gate)))
    linear(packing, torch.ones(1, 1), made, out, bias, Epilogue.SILU_MUL_OF)
    torch.testing.assert_close(out[0].double(), F.silu(gate.double()), rtol=relative, atol=1e-30, equal_nan=True)


def test_the_exact_gate_is_on_the_grid(packing: Packing) -> None:
    weight = torch.randint(-32, 33, (2 * 20, 48)).float() / 64
    x = torch.randint(-64, 65, (9, 48)).float() / 64
    gate, up = (x @ weight.T).chunk(2, 1)
    out = torch.empty(9, 20)
    linear(packing, x, packing.pack(weight, interleaved=True), out, None, Epilogue.SILU_MUL_OF, exact=True)
    assert torch.equal(out, snap(F.silu(gate.double()) * up.double()))


@pytest.mark.parametrize(("kind", "rounds"), FORMS)
def test_sums_are_added_to_what_is_there(variant: str, kind: WeightKind, rounds: bool) -> None:
    dtype = PLAIN.get(kind, torch.bfloat16)
    wide, packing = torch.promote_types(dtype, torch.float32), packing_of(variant, rounds)
    weight = torch.randn(45, 51).to(dtype)
    made, bias, x = packing.pack(weight, form(kind)), torch.randn(45, dtype=wide), rows_among_noise(14, 51, dtype)
    stored = linear(packing, x, made, torch.empty(14, 45, dtype=wide), bias)
    before = torch.randn(14, 45, dtype=wide)
    assert torch.equal(linear(packing, x, made, before.clone(), bias, Epilogue.ADD_TO), before + stored)


@pytest.mark.parametrize(("kind", "rounds"), FORMS)
@pytest.mark.parametrize("shape", [(70, 100), (200, 33), (32, 9000), (40, 611)], ids=str)
def test_bits_of_a_row_depend_on_nothing_beside_it(
    variant: str, shape: tuple[int, int], kind: WeightKind, rounds: bool
) -> None:
    columns, depth = shape
    dtype = PLAIN.get(kind, torch.bfloat16)
    packing, wide = packing_of(variant, rounds), torch.promote_types(dtype, torch.float32)
    made = packing.pack(torch.randn(shape).to(dtype), form(kind))
    for given_as in {dtype, torch.float32} if kind in CODED else {dtype}:
        rows = rows_among_noise(200, depth, given_as)
        whole = linear(packing, rows, made, torch.empty(200, columns, dtype=wide))
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 24, 31, 97):
            begin = 7 * count % (200 - count)
            some, out = rows[begin : begin + count], torch.empty(count, columns, dtype=wide)
            part = linear(step_cases.packing(variant, 1 + count % 3), some, made, out)
            assert torch.equal(part, whole[begin : begin + count]), (count, begin)


@pytest.mark.parametrize("kind", [WeightKind.INT4, WeightKind.INT8G], ids=lambda kind: kind.name)
def test_groups_give_the_bits_of_their_bf16_matrix(packing: Packing, kind: WeightKind) -> None:
    weight = torch.randn(70, 167)
    coded = packing.pack(weight, form(kind))
    plain = packing.pack(coded.rows(0, 70).bfloat16())
    for count in (1, 2, 3, 7, 30):
        x = rows_among_noise(count, 167, torch.bfloat16)
        out = [linear(packing, x, each, torch.empty(count, 70)) for each in (coded, plain)]
        assert torch.equal(*out)


def test_ties_of_a_group_go_to_even(packing: Packing) -> None:
    """257/256 times most codes lies in the middle of two bf16 numbers; both signs, and beside offsets."""
    codes = torch.arange(-127, 128).to(torch.int8).view(-1, 1).expand(-1, 32)
    for name, scale in [
        ("Q8_0", 257 / 256),
        ("Q8_0", 1.5 / 256),
        ("Q8_0", 0.0),
        ("Q4_0", 259 / 256),
        ("Q4_1", 17 / 16),
    ]:
        halves = torch.tensor([[scale], [24.125]]).half().view(torch.uint8)
        nibbles = (codes & 15 | (codes + 5 & 15) << 4)[:, :16]
        parts = [halves[0], *([halves[1]] if name == "Q4_1" else [])]
        numbers = torch.cat(parts).expand(len(codes), -1)
        raw = torch.cat((numbers, (codes if name == "Q8_0" else nibbles).contiguous().view(torch.uint8)), 1)
        values = decoded(raw[:, None], name)
        assert scale == 0 or not torch.equal(values, values.bfloat16().float())
        made = packing.pack_blocks(step_cases.file_blocks(raw, name, 32))
        for count in (1, 5, 30):
            x = rows_among_noise(count, 32, torch.bfloat16)
            out = [
                linear(packing, x, each, torch.empty(count, len(codes)))
                for each in (made, packing.pack(values.bfloat16()))
            ]
            assert torch.equal(*out), (name, scale, count)


def packed_blocks(packing: Packing, name: str, columns: int, depth: int) -> tuple[PackedWeight, Tensor]:
    raw = step_cases.raw_blocks(name, columns, depth)
    return packing.pack_blocks(step_cases.file_blocks(raw, name, depth)), raw


@given(columns=st.integers(1, 70), groups=st.integers(1, 4), rows=st.integers(1, 17), name=st.sampled_from(BLOCKS))
@settings(max_examples=30, deadline=None)
def test_blocks_of_a_file_are_taken_as_they_are(columns: int, groups: int, rows: int, name: str) -> None:
    packing = step_cases.packing(ISAS[0])
    depth = 32 * groups
    made, raw = packed_blocks(packing, name, columns, depth)
    values = decoded(raw, name).bfloat16()
    assert torch.equal(made.unpacked(), values)
    assert made.nbytes < 0.75 * values.nbytes * (columns + 31) // 32 * 32 / columns + 64
    x = rows_among_noise(rows, depth, torch.bfloat16)
    plain = linear(packing, x, packing.pack(values), torch.empty(rows, columns))
    assert torch.equal(linear(packing, x, made, torch.empty(rows, columns)), plain)


def decoded(raw: Tensor, name: str) -> Tensor:
    """fp32 numbers of blocks uint8 [columns, groups, bytes], by the format's definition."""
    scale = raw[..., :2].contiguous().view(torch.half).float()
    if name == "Q8_0":
        return (raw[..., 2:].contiguous().view(torch.int8).float() * scale).flatten(1)
    offset = raw[..., 2:4].contiguous().view(torch.half).float() if name == "Q4_1" else -8 * scale
    packed = raw[..., 4:] if name == "Q4_1" else raw[..., 2:]
    nibbles = torch.cat((packed & 15, packed >> 4), -1).float()
    return (nibbles * scale + offset).flatten(1)


@pytest.mark.parametrize("kind", [WeightKind.INT8, WeightKind.INT8G, WeightKind.INT4], ids=str)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_what_is_no_number_stays_none_in_codes(packing: Packing, kind: WeightKind, wrong: float) -> None:
    """A broken checkpoint must not be served as if it were whole; all that share a scale with it are no numbers."""
    weight = torch.randn(40, 75)
    weight[3, 40], weight[33, 0] = wrong, wrong
    found, wanted = packing.pack(weight, form(kind)).rows(0, 40), quantized(weight, kind)
    assert torch.equal(found.isfinite(), wanted.isfinite())
    assert not found[3, 40].isfinite() and not found[33, 0].isfinite() and found[4].isfinite().all()
    assert torch.equal(found[wanted.isfinite()], wanted[wanted.isfinite()])


def test_the_range_of_4_bits(packing: Packing) -> None:
    """Also where a scale would round to more than the largest of 5 bits; steps are 2^-19 at least."""
    for most in (65000.0, 65500.0):
        weight = torch.linspace(-1, 1, 32).repeat(2, 1) * 7.5 * most
        found, wanted = packing.pack(weight, form(WeightKind.INT4)).rows(0, 2), quantized(weight, WeightKind.INT4)
        assert found.isfinite().all() and torch.equal(found, wanted)
        assert (found - weight).abs().max() < 0.8 * most
    beyond = torch.linspace(-1, 1, 32).repeat(2, 1) * 982_900 / 2
    assert not packing.pack(beyond, form(WeightKind.INT4)).rows(0, 2).isfinite().any()
    near = torch.linspace(-1e-5, 1e-5, 32).repeat(2, 1)
    assert (packing.pack(near, form(WeightKind.INT4)).rows(0, 2) - near).abs().max() < 2**-20 * 1.05


def test_weights_of_an_arena_do_not_touch(packing: Packing) -> None:
    arena = Arena(1 << 16)
    weights = [torch.randn(n, 40 + n) for n in (1, 7, 33, 200, 64)]
    made = [packing.pack(weight, arena=arena) for weight in weights]
    assert all(each.data.data_ptr() % 64 == 0 for each in made)
    assert all(torch.equal(each.unpacked(), weight) for each, weight in zip(made, weights, strict=True))


def test_what_cannot_be_packed_is_refused(packing: Packing) -> None:
    with pytest.raises(TypeError, match="cannot pack torch.float16"):
        packing.pack(torch.zeros(2, 2, dtype=torch.half))
    with pytest.raises(ValueError, match="3 rows are not as many gate as up rows"):
        packing.pack(torch.zeros(3, 2), interleaved=True)
    with pytest.raises(ValueError, match="Q4_0 rows of 64 take 36 bytes"):
        packing.pack_blocks(step_cases.file_blocks(torch.zeros(3, 35, dtype=torch.uint8), "Q4_0", 64))
    with pytest.raises(IndexError, match="rows 2 to 5 of 3"):
        packing.pack(torch.zeros(3, 2)).rows(2, 5)
