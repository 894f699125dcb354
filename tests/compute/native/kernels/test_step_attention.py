"""Attention of the step library against dense attention in fp64: every variant, packed and plain pages, and the same
bits for a row in every batch, chunking, tile and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.step_cases import THREADS
from tests.compute.ops.paged_cases import LONGEST, Run, Sizes, attended, dense_attention, paged
from weft.compute.native.records import StepRecord
from weft.compute.ops import Numerics
from weft.compute.ops.operations.attention import K_CACHE, KV_OF_HEAD, PACKED_CACHE, V_CACHE, WORK_CHUNKS, WORKSPACE
from weft.compute.ops.operations.dense import SCALE
from weft.compute.ops.operations.table import Op
from weft.compute.ops.reference.exact_ops import ExactOps, snap

pytestmark = pytest.mark.usefixtures("step_library")

GROUPED = Sizes((0, 0, 0, 1, 1, 1, 2, 2, 2), 3, 64, 32)
UNEVEN = Sizes((0, 0, 1, 1, 1, 1, 1), 2, 64, 16, 40)
MANY = Sizes((0,) * 29, 1, 32, 16)  # more query heads than a tile has rows
ODD = Sizes((0, 1, 2, 2), 3, 40, 16)  # dims beyond the last whole vector
TINY = Sizes((0, 0), 1, 6, 48, 7)
WIDE = Sizes((0, 0, 0, 1, 1), 2, 128, 64)
EVERY = {"grouped": GROUPED, "uneven": UNEVEN, "many": MANY, "odd": ODD, "tiny": TINY, "wide": WIDE}
RUNS: tuple[Run, ...] = ((0, 70, 1), (100, 1, 2), (301, 1, 3), (250, 30, 4), (5, 1, 5), (254, 3, 6))
FORMS = {
    "packed": (torch.bfloat16, True),
    "bf16": (torch.bfloat16, False),
    "fp32": (torch.float32, False),
    "fp64": (torch.float64, False),
}
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 5e-6, torch.float64: 1e-13}
VALUE_GROUP = 32
"""Tokens whose values may be read together, at most."""


def packed_pages(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Pages [B, K, S, D] as [S / 16][D / 2][16][2] and [S / 2][D][2]; zero after the last written value of a group."""
    blocks, heads, size, dim = k.shape
    k = k.view(blocks, heads, size // 16, 16, dim // 2, 2).transpose(3, 4).contiguous()
    v = v.view(blocks, heads, size // 2, 2, dim).transpose(3, 4).contiguous()
    for first in range(0, size // 2, VALUE_GROUP // 2):
        group = v[:, :, first : first + VALUE_GROUP // 2]
        begun = ~group[:, :, 0, :, 0].isnan().all(-1)
        group[begun] = group[begun].nan_to_num(0.0)
    return k.view(blocks, heads, size, dim), v.view(blocks, heads, size, dim)


def attend(
    variant: str,
    threads: int,
    sizes: Sizes,
    runs: Sequence[Run],
    dtype: torch.dtype,
    packed: bool,
    *,
    seed: int = 0,
    meeting: bool = True,
    neighbours: bool = False,
    exact: bool = False,
) -> Tensor:
    """`meeting`: units may be cut; `neighbours`: K and V of a block lie side by side in one tensor."""
    case = paged(sizes, runs, torch.float64 if exact else dtype, seed)
    k, v, meta = case.cache.k, case.cache.v, case.meta
    if exact:
        k, v = snap(k).double(), snap(v).double()
    if packed:
        k, v = packed_pages(k, v)
    stride = (k.stride(0), k.stride(1))
    if neighbours:
        both = torch.stack((k, v), 2)
        k, v, stride = both[:, :, 0], both[:, :, 1], (both.stride(0), both.stride(1))
    q = (snap(case.q) if exact else case.q).flatten(1)
    ends = torch.tensor(meta.row_ends, dtype=torch.int32)
    step = StepRecord(runs=len(runs), table_width=meta.block_tables.shape[1])
    step.positions, step.run_of_row = meta.positions.data_ptr(), meta.run_of_row.data_ptr()
    step.row_ends, step.block_tables = ends.data_ptr(), meta.block_tables.data_ptr()
    n = dict(enumerate((len(sizes.kv_of_head), sizes.kv_heads, sizes.dim, sizes.block_size, sizes.window)))
    n[PACKED_CACHE] = int(packed)
    p: dict[int, Tensor | None] = {K_CACHE: k, V_CACHE: v, KV_OF_HEAD: case.kv_of_head}
    if meeting:
        nbytes, n[WORK_CHUNKS] = step_cases.pool(variant, threads).attention_workspace(LONGEST, sizes.dim)
        p[WORKSPACE] = torch.zeros(nbytes, dtype=torch.uint8)
    out = torch.full_like(q, torch.nan)
    return step_cases.run(
        variant, threads, Op.ATTENTION, out, [q], step, n=n, f={SCALE: sizes.scale}, p=p, strides=stride, exact=exact
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EVERY)
def test_it_is_dense_attention_with_the_same_bits_everywhere(variant: str, form: str, name: str) -> None:
    sizes, (dtype, packed) = EVERY[name], FORMS[form]
    whole = attend(variant, 1, sizes, RUNS, dtype, packed)
    assert (whole.double() - dense_attention(sizes, RUNS, dtype)).abs().max() < TOLERANCE[dtype]
    for threads in THREADS:
        for meeting in (False, True):
            assert torch.equal(attend(variant, threads, sizes, RUNS, dtype, packed, seed=1, meeting=meeting), whole)
    row_by_row = [
        attend(variant, 2, sizes, [(start + i, 1, request) for i in range(rows)], dtype, packed)
        for start, rows, request in RUNS
    ]
    assert torch.equal(torch.cat(row_by_row), whole)


@pytest.mark.parametrize("form", FORMS)
def test_pieces_of_many_chunks_are_put_together(variant: str, form: str) -> None:
    """Contexts of up to five chunks of 256 keys: several pieces lie between the first and the last."""
    dtype, packed = FORMS[form]
    runs: tuple[Run, ...] = ((1099, 1, 1), (760, 5, 2), (511, 2, 3), (1023, 3, 4))
    whole = attend(variant, 1, GROUPED, runs, dtype, packed, meeting=False)
    assert (whole.double() - dense_attention(GROUPED, runs, dtype)).abs().max() < TOLERANCE[dtype]
    for threads in THREADS:
        assert torch.equal(attend(variant, threads, GROUPED, runs, dtype, packed), whole)
    for run, first in zip(runs, (0, 1, 6, 8), strict=True):
        assert torch.equal(attend(variant, 3, GROUPED, [run], dtype, packed), whole[first : first + run[1]])


@pytest.mark.parametrize("threads", (2, 3, 5))
def test_one_long_run_is_cut_between_threads(variant: str, threads: int) -> None:
    sizes = Sizes((0, 0), 1, 64, 16)
    for position in (0, 255, 256, 319):
        run = [(position, 1, 7)]
        whole = attend(variant, 1, sizes, run, torch.bfloat16, True, meeting=False)
        assert torch.equal(attend(variant, threads, sizes, run, torch.bfloat16, True), whole)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_cut_into_chunks_has_the_same_bits(variant: str, data: st.DataObject) -> None:
    dtype, packed = FORMS[data.draw(st.sampled_from(sorted(FORMS)), label="form")]
    heads = sorted(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=9), label="kv_of_head"))
    block = data.draw(st.sampled_from((16, 32, 48)) if packed else st.integers(1, 40), label="block size")
    dim, window = 2 * data.draw(st.integers(1, 40), label="half dim"), data.draw(st.sampled_from((0, 1, 5, 70)))
    sizes = Sizes(tuple(heads), 3, dim, block, window)
    length = data.draw(st.integers(1, 300), label="length")
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=4))) if length > 1 else []
    whole = attend(variant, 1, sizes, [(0, length, 9)], dtype, packed)
    pieces = []
    for begin, end in zip([0, *cuts], [*cuts, length], strict=True):
        runs = [(data.draw(st.integers(0, 290)), 2, 3), (begin, end - begin, 9)]
        threads = data.draw(st.integers(1, 4), label="threads")
        pieces.append(attend(variant, threads, sizes, runs, dtype, packed, seed=end)[2:])
    assert torch.equal(torch.cat(pieces), whole)
    assert (whole.double() - dense_attention(sizes, [(0, length, 9)], dtype)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("form", FORMS)
def test_keys_and_values_may_be_neighbours(variant: str, form: str) -> None:
    dtype, packed = FORMS[form]
    apart = attend(variant, 2, GROUPED, RUNS, dtype, packed)
    assert torch.equal(attend(variant, 2, GROUPED, RUNS, dtype, packed, neighbours=True), apart)


@pytest.mark.parametrize("name", EVERY)
def test_exact_mode_equals_the_exact_model(variant: str, name: str) -> None:
    sizes = EVERY[name]
    case = paged(sizes, RUNS, torch.float64)
    cache = replace(case.cache, k=snap(case.cache.k).double(), v=snap(case.cache.v).double())
    ops = ExactOps(Numerics(torch.float32, exact=True), torch.device("cpu"))
    wanted = attended(ops, snap(case.q), cache, case.kv_of_head, sizes.scale, case.meta, sizes.window)
    out = attend(variant, 2, sizes, RUNS, torch.float32, False, exact=True)
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", ["oldest key", "wrong head", "scale", "last key"])
def test_a_wrong_answer_is_far_outside_the_tolerance(variant: str, form: str, fault: str) -> None:
    """The comparisons above would see these faults."""
    dtype, packed = FORMS[form]
    runs: list[Run] = [(36, 1, 1)]
    wanted = dense_attention(GROUPED, runs, dtype)
    sizes, faulty = GROUPED, runs
    if fault == "oldest key":
        sizes = replace(GROUPED, window=36)
    elif fault == "wrong head":
        sizes = replace(GROUPED, kv_of_head=(0, 0, 1, 1, 1, 1, 2, 2, 2))
    elif fault == "scale":
        wanted = dense_attention(replace(GROUPED, dim=64), runs, dtype) * 1.1
    else:
        wanted = dense_attention(GROUPED, [(37, 1, 1)], dtype)
    out = attend(variant, 1, sizes, faulty, dtype, packed)
    assert (out.double() - wanted).abs().max() > 2 * TOLERANCE[dtype]
