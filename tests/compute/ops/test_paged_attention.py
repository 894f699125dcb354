"""Paged attention, twin and kernel, against dense attention; a row's bits alone, in a batch, in chunks, on threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compute.ops.implementations import ops_on
from tests.compute.ops.paged_cases import Case, Run, Sizes, attended, dense_attention, paged
from weft.compute.ops.interface import Ops

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}
GROUPED = Sizes((0, 0, 0, 1, 1, 1, 2, 2, 2), 3, 64, 16)
UNEVEN = Sizes((0, 1, 1, 1), 2, 10, 5, window=7)
CASES = {
    "grouped": GROUPED,
    "uneven": UNEVEN,
    "blocks of one": Sizes((0, 0, 0, 1, 1), 2, 8, 1),
    "wide window": Sizes((0,) * 7, 1, 128, 256, window=100),
    "crossed": Sizes((1, 0), 2, 256, 32),
    "narrow": Sizes((0,), 1, 2, 3),
    "odd": Sizes((0, 0), 1, 33, 7, window=1),
}
RUNS: tuple[Run, ...] = ((0, 37, 1), (100, 1, 2), (250, 20, 3), (0, 1, 4), (16, 16, 5), (3, 130, 6), (64, 1, 7))


def attend(ops: Ops, sizes: Sizes, case: Case) -> torch.Tensor:
    return attended(ops, case.q, case.cache, case.kv_of_head, sizes.scale, case.meta, sizes.window)


@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES)
def test_equals_dense_attention(ops: Ops, dtype: torch.dtype, sizes: Sizes) -> None:
    out = attend(ops, sizes, paged(sizes, RUNS, dtype))
    assert out.dtype == dtype
    wanted = dense_attention(sizes, RUNS, dtype)
    assert (out.double() - wanted).abs().max() < TOLERANCE[dtype]


def test_more_keys_than_one_lane_block_and_one_tile(ops: Ops, dtype: torch.dtype) -> None:
    sizes = Sizes((0,) * 100, 1, 8, 16)
    runs = ((0, 3, 1), (70, 2, 2))
    out = attend(ops, sizes, paged(sizes, runs, dtype))
    assert (out.double() - dense_attention(sizes, runs, dtype)).abs().max() < TOLERANCE[dtype]


def test_no_rows(ops: Ops, dtype: torch.dtype) -> None:
    assert attend(ops, GROUPED, paged(GROUPED, (), dtype)).shape == (0, 9 * 64)


def test_q_inside_a_packed_buffer(ops: Ops, dtype: torch.dtype) -> None:
    case = paged(GROUPED, RUNS, dtype)
    packed = torch.randn(case.q.shape[0], 13, 64).to(dtype)
    packed[:, 2:11] = case.q
    strided = Case(packed[:, 2:11], case.cache, case.meta, case.kv_of_head)
    assert torch.equal(attend(ops, GROUPED, strided), attend(ops, GROUPED, case))


def exact_bits(implementation: str, dtype: torch.dtype) -> bool:
    # MKL's fp64 batched product, which only the twin uses, depends on the size of its batch in the last bits.
    return implementation == "step" or dtype != torch.float64


@pytest.mark.parametrize("sizes", [GROUPED, UNEVEN], ids=["grouped", "uneven"])
def test_a_row_alone_has_the_bits_it_has_in_a_batch(implementation: str, dtype: torch.dtype, sizes: Sizes) -> None:
    together = attend(ops_on(implementation, dtype, 2), sizes, paged(sizes, RUNS, dtype))
    ops = ops_on(implementation, dtype, 1)
    row = 0
    for start, rows, request in RUNS:
        for at in sorted({start, start + rows // 2, start + rows - 1}):
            alone = attend(ops, sizes, paged(sizes, ((at, 1, request),), dtype, seed=at))
            if exact_bits(implementation, dtype):
                assert torch.equal(alone[0], together[row + at - start])
            else:
                assert (alone[0] - together[row + at - start]).abs().max() < 1e-14
        row += rows


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_cut_into_chunks_has_the_same_bits(
    ops: Ops, implementation: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    heads = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=9), label="kv_of_head")
    sizes = Sizes(
        tuple(heads), 2, data.draw(st.sampled_from((4, 16, 20, 64))), data.draw(st.integers(1, 40)),
        data.draw(st.sampled_from((0, 1, 5, 70))),
    )  # fmt: skip
    length = data.draw(st.integers(1, 160), label="length")
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=4))) if length > 1 else []
    whole = attend(ops, sizes, paged(sizes, ((0, length, 9),), dtype))
    pieces = []
    for begin, end in zip([0, *cuts], [*cuts, length], strict=True):
        beside: tuple[Run, ...] = ((begin, end - begin, 9), (data.draw(st.integers(0, 90)), 2, 3))
        pieces.append(attend(ops, sizes, paged(sizes, beside, dtype, seed=end))[: end - begin])
    if exact_bits(implementation, dtype):
        assert torch.equal(torch.cat(pieces), whole)
    assert (whole.double() - dense_attention(sizes, ((0, length, 9),), dtype)).abs().max() < TOLERANCE[dtype]


def test_threads_do_not_change_bits(implementation: str, dtype: torch.dtype) -> None:
    case = paged(GROUPED, RUNS, dtype)
    on_two = attend(ops_on(implementation, dtype, 2), GROUPED, case)
    assert torch.equal(attend(ops_on(implementation, dtype, 1), GROUPED, case), on_two)


@pytest.mark.parametrize("fault", ["oldest key", "newest key", "wrong head", "scale"])
def test_a_wrong_answer_is_far_outside_the_tolerance(ops: Ops, dtype: torch.dtype, fault: str) -> None:
    """The comparison above would see these faults."""
    case = paged(GROUPED, RUNS, dtype)
    wanted = dense_attention(GROUPED, RUNS, dtype)
    meta, heads, scale, window = case.meta, case.kv_of_head, GROUPED.scale, 0
    if fault == "oldest key":
        window = 36
    elif fault == "newest key":
        meta = replace(meta, positions=meta.positions - 1)
        window = 400
    elif fault == "wrong head":
        heads = heads.roll(1)
    else:
        scale *= 1.1
    rows = slice(1, 37)
    meta = replace(
        meta, positions=meta.positions[rows], slots=meta.slots[rows], run_of_row=meta.run_of_row[rows], row_ends=(36,)
    )
    out = attended(ops, case.q[rows], case.cache, heads, scale, meta, window)
    assert (out.double() - wanted[rows]).abs().max() > 10 * TOLERANCE[dtype]


def test_nan_in_a_query_stays_in_its_row(ops: Ops, dtype: torch.dtype) -> None:
    case = paged(GROUPED, RUNS, dtype)
    wanted = attend(ops, GROUPED, case)
    case.q[40, 2, 3] = torch.nan
    out = attend(ops, GROUPED, case).view(-1, 9, 64)
    assert out[40, 2].isnan().all()
    out[40, 2] = wanted.view(-1, 9, 64)[40, 2]
    assert torch.equal(out.flatten(1), wanted)
