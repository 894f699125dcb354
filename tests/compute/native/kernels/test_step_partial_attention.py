"""Partial attention and merge of the step library: every owner's part against the torch twin, their merge against dense
attention, and the same bits for a row in every batch, chunking, order of segments and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compute.native import step_cases
from tests.compute.native.kernels.test_step_attention import (
    EVERY,
    FORMS,
    GROUPED,
    RUNS,
    TOLERANCE,
    UNEVEN,
    packed_pages,
)
from tests.compute.native.step_cases import THREADS
from tests.compute.ops.paged_cases import LONGEST, Case, Run, Sizes, dense_attention, paged
from weft.compute.native.records import StepRecord
from weft.compute.ops.attention import AttentionMeta, AttentionSpec, KeyShare, merge_partials, pack_partial
from weft.compute.ops.operations.attention import (
    HEAD_DIM,
    HEAD_STARTS,
    K_CACHE,
    KV_OF_HEAD,
    OWNER,
    OWNERS,
    PACKED_CACHE,
    Q_HEADS,
    SECTIONS,
    V_CACHE,
    WORK_CHUNKS,
    WORKSPACE,
)
from weft.compute.ops.operations.dense import SCALE
from weft.compute.ops.operations.table import Op
from weft.compute.ops.reference.exact_ops import snap
from weft.compute.ops.reference.paged_attention import TorchAttention

pytestmark = pytest.mark.usefixtures("step_library")


def shared(case: Case, share: KeyShare) -> AttentionMeta:
    """The case's rows, with the blocks of an owner."""
    meta, tables = case.meta, case.meta.block_tables[:, share.owner :: share.owners].contiguous()
    tables = tables if tables.shape[1] else tables.new_zeros(len(tables), 1)
    return AttentionMeta(meta.positions, meta.slots, meta.run_of_row, tables, meta.row_ends, share)


def partial(
    variant: str,
    threads: int,
    sizes: Sizes,
    case: Case,
    packed: bool,
    share: KeyShare,
    *,
    sections: Sequence[int] = (),
    exact: bool = False,
) -> Tensor:
    """`sections`: heads of each."""
    meta, heads = shared(case, share), len(sizes.kv_of_head)
    pages = packed_pages(case.cache.k, case.cache.v) if packed else (case.cache.k, case.cache.v)
    q = case.q.flatten(1)
    ends = torch.tensor(meta.row_ends, dtype=torch.int32)
    step = StepRecord(runs=len(ends), table_width=meta.block_tables.shape[1])
    step.group_positions, step.run_of_row = meta.positions.data_ptr(), meta.run_of_row.data_ptr()
    step.row_ends, step.block_tables = ends.data_ptr(), meta.block_tables.data_ptr()
    n = dict(enumerate((heads, sizes.kv_heads, sizes.dim, sizes.block_size, sizes.window)))
    n |= {PACKED_CACHE: int(packed), SECTIONS: len(sections), OWNER: share.owner, OWNERS: share.owners}
    starts = torch.tensor([0, *accumulate(sections)], dtype=torch.int32)
    nbytes, n[WORK_CHUNKS] = step_cases.pool(variant, threads).attention_workspace(LONGEST, sizes.dim)
    workspace = torch.zeros(nbytes, dtype=torch.uint8)
    p: dict[int, Tensor | None] = {K_CACHE: pages[0], V_CACHE: pages[1], KV_OF_HEAD: case.kv_of_head}
    p |= {WORKSPACE: workspace, HEAD_STARTS: starts}
    dtype = torch.float64 if exact else torch.promote_types(q.dtype, torch.float32)
    out = torch.full((len(q), heads * (sizes.dim + 2)), torch.nan, dtype=dtype)
    strides = pages[0].stride(0), pages[0].stride(1)
    return step_cases.run(
        variant, threads, Op.PARTIAL, out, [q], step, n=n, f={SCALE: sizes.scale}, p=p, strides=strides, exact=exact
    )


def merged(
    variant: str, threads: int, parts: Sequence[Tensor], heads: int, dtype: torch.dtype, exact: bool = False
) -> Tensor:
    rows, width = parts[0].shape
    dim = width // heads - 2
    out = torch.full((rows, heads * dim), torch.nan, dtype=dtype)
    n = {Q_HEADS: heads, HEAD_DIM: dim, OWNERS: len(parts)}
    return step_cases.run(variant, threads, Op.MERGE, out, [torch.cat(tuple(parts))], n=n, exact=exact)


def close_to_twin(sizes: Sizes, case: Case, share: KeyShare, found: Tensor, tolerance: float) -> bool:
    """Whether a part's quotients, levels and sums are the twin's."""
    twin, heads = TorchAttention(), len(sizes.kv_of_head)
    spec = AttentionSpec(case.kv_of_head, sizes.dim, sizes.scale, sizes.window)
    wanted = twin.forward(case.q, case.cache, twin.prepare(shared(case, share)), spec, partial=True)
    one, two = (part.double().view(len(part), heads, -1) for part in (found, wanted))
    none = two[..., -1] == 0
    if not torch.equal(one[..., -1] == 0, none) or not (one[none][:, -2] == -torch.inf).all():
        return False
    quotients = [each[~none][:, :-2] / each[~none][:, -1:] for each in (one, two)]
    totals = [each[~none][:, -1].log() + each[~none][:, -2] for each in (one, two)]
    levels = [each[~none][:, -2] for each in (one, two)]
    pairs = (quotients, totals, levels)
    return all(bool(((a - b).abs() < tolerance).all()) for a, b in pairs) and not one[none][:, :-2].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EVERY)
def test_parts_are_the_twins_and_merge_to_dense_attention(variant: str, form: str, name: str) -> None:
    sizes, (dtype, packed) = EVERY[name], FORMS[form]
    case, heads, owners = paged(sizes, RUNS, dtype), len(sizes.kv_of_head), 3
    parts = [partial(variant, 1, sizes, case, packed, KeyShare(owner, owners)) for owner in range(owners)]
    for owner, part in enumerate(parts):
        assert close_to_twin(sizes, case, KeyShare(owner, owners), part, TOLERANCE[dtype] * 4)
        for threads in THREADS[1:]:
            assert torch.equal(partial(variant, threads, sizes, case, packed, KeyShare(owner, owners)), part)
    found = merged(variant, 2, parts, heads, dtype)
    assert (found.double() - dense_attention(sizes, RUNS, dtype)).abs().max() < TOLERANCE[dtype]
    assert (found.double() - merge_partials(parts, heads).double()).abs().max() < TOLERANCE[dtype]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_owners_cuts_and_sections(variant: str, data: st.DataObject) -> None:
    """A run cut into segments, in any order, gives each row the bits of the whole run, in sections or without."""
    dtype, packed = FORMS[data.draw(st.sampled_from(sorted(FORMS)), label="form")]
    heads = sorted(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=9), label="kv_of_head"))
    block = data.draw(st.sampled_from((16, 32, 48)) if packed else st.integers(1, 40), label="block size")
    dim, window = 2 * data.draw(st.integers(1, 40), label="half dim"), data.draw(st.sampled_from((0, 1, 5, 70)))
    sizes, owners = Sizes(tuple(heads), 3, dim, block, window), data.draw(st.integers(1, 5), label="owners")
    length, start = data.draw(st.integers(1, 40), label="rows"), data.draw(st.integers(0, 280), label="start")
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=4)) if length > 1 else []), length]
    segments = data.draw(st.permutations([(lo, hi) for lo, hi in pairwise(cuts)]), label="segments")
    whole = paged(sizes, [(start, length, 9)], dtype)
    cut: list[Run] = [(start + lo, hi - lo, 9) for lo, hi in segments]
    pieces, order = paged(sizes, cut, dtype, seed=5), torch.cat([torch.arange(*each) for each in segments])
    ends = [0, *sorted(data.draw(st.sets(st.integers(1, len(heads) - 1), max_size=2)) if heads[1:] else []), len(heads)]
    threads, parts = data.draw(st.integers(1, 4), label="threads"), []
    for share in (KeyShare(owner, owners) for owner in range(owners)):
        part = partial(variant, 1, sizes, whole, packed, share)
        assert torch.equal(partial(variant, threads, sizes, pieces, packed, share), part[order])
        counts = [hi - lo for lo, hi in pairwise(ends)]
        apart = partial(variant, threads, sizes, whole, packed, share, sections=counts).flatten()
        columns = [part[:, lo * (dim + 2) : hi * (dim + 2)] for lo, hi in pairwise(ends)]
        assert torch.equal(apart, torch.cat([each.flatten() for each in columns]))
        parts.append(part)
    found = merged(variant, threads, parts, len(heads), dtype)
    assert (found.double() - dense_attention(sizes, [(start, length, 9)], dtype)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("form", FORMS)
def test_long_contexts_are_cut_between_threads(variant: str, form: str) -> None:
    dtype, packed = FORMS[form]
    runs: tuple[Run, ...] = ((1099, 1, 1), (760, 5, 2), (511, 2, 3), (1023, 3, 4))
    case = paged(GROUPED, runs, dtype)
    parts = [partial(variant, 1, GROUPED, case, packed, KeyShare(owner, 2)) for owner in range(2)]
    for threads in THREADS[1:]:
        for owner in range(2):
            assert torch.equal(partial(variant, threads, GROUPED, case, packed, KeyShare(owner, 2)), parts[owner])
    found = merged(variant, 1, parts, 9, dtype)
    assert (found.double() - dense_attention(GROUPED, runs, dtype)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("name", EVERY)
def test_exact_parts_merge_to_the_twins_grid(variant: str, name: str) -> None:
    sizes = EVERY[name]
    drawn = paged(sizes, RUNS, torch.float64)
    drawn.cache.k.copy_(snap(drawn.cache.k))
    drawn.cache.v.copy_(snap(drawn.cache.v))
    case, heads = Case(snap(drawn.q), drawn.cache, drawn.meta, drawn.kv_of_head), len(sizes.kv_of_head)
    shares, twin = [KeyShare(owner, 3) for owner in range(3)], TorchAttention()
    spec = AttentionSpec(case.kv_of_head, sizes.dim, sizes.scale, sizes.window)
    wanted = [
        twin.forward(case.q.double(), case.cache, twin.prepare(shared(case, share)), spec, partial=True)
        for share in shares
    ]
    parts = [partial(variant, 2, sizes, case, False, share, exact=True) for share in shares]
    assert torch.equal(merged(variant, 2, parts, heads, torch.float32, exact=True), snap(merge_partials(wanted, heads)))


# -- faults


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", ["owner off by one", "oldest block dropped"])
def test_wrong_keys_are_far_outside_the_tolerance(variant: str, form: str, fault: str) -> None:
    dtype, packed = FORMS[form]
    runs: list[Run] = [(36, 1, 1)]
    case, shares = paged(UNEVEN, runs, dtype), [KeyShare(owner, 2) for owner in range(2)]
    right = [partial(variant, 1, UNEVEN, case, packed, share) for share in shares]
    assert close_to_twin(UNEVEN, case, shares[0], right[0], 4 * TOLERANCE[dtype])
    if fault == "oldest block dropped":
        sizes = Sizes(UNEVEN.kv_of_head, 2, 64, 16, 36 + 1 - 16)
        wrong = [partial(variant, 1, sizes, case, packed, share) for share in shares]
    else:
        wrong = [right[0], partial(variant, 1, UNEVEN, case, packed, KeyShare(0, 2))]
    found = merged(variant, 1, wrong, 7, dtype)
    assert (found.double() - dense_attention(UNEVEN, runs, dtype)).abs().max() > 2 * TOLERANCE[dtype]


def test_another_order_gives_other_bits(variant: str) -> None:
    sums = torch.tensor([[1.0], [2.0**-24], [2.0**-24]])
    parts = [pack_partial(each.view(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)) for each in sums]
    assert merged(variant, 1, parts, 1, torch.float32) == torch.tensor(1.0) / 3
    assert merged(variant, 1, parts[::-1], 1, torch.float32) == torch.tensor(1 + 2.0**-23) / 3


def test_dividing_first_turns_ties_red(variant: str) -> None:
    """Quotients in the middle between two points of the grid, of parts of equal levels."""
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 60, (2, 300, 1, 1), generator=draw).double()
    middles = torch.randint(-100, 100, (300, 1, 1), generator=draw).double() / 64 + 1 / 128
    first = torch.randint(-4096, 4096, (300, 1, 1), generator=draw).double() / 4096
    sums = [first, middles * counts.sum(0) - first]
    level, one = torch.zeros(300, 1, 1).double(), torch.ones(300, 1, 1).double()
    parts = [pack_partial(x, level, count) for x, count in zip(sums, counts, strict=True)]
    divided = [pack_partial(x / count, count.log(), one) for x, count in zip(sums, counts, strict=True)]
    wanted = snap(middles).flatten(1)
    assert torch.equal(merged(variant, 1, parts, 1, torch.float32, exact=True), wanted)
    assert not torch.equal(merged(variant, 1, divided, 1, torch.float32, exact=True), wanted)
