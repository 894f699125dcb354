"""Transitions: every ordered pair of placements in every world up to 24, by brute force on what each rank holds.

Worlds from 19 on are long tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import lcm

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.parallel.layout.algebra_ownership import (
    check_pair,
    columns_held,
    divisors,
    head_columns,
    ordered_pairs,
    placements,
)
from weft.base.errors import LayoutError
from weft.parallel.layout.placement import Placement, PlacementKind, full, partial, shard
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.splits import even_splits, splits_after
from weft.parallel.layout.transition import RowRange, Step, received_bytes, transition

HEADS, KV_HEADS, HEAD_DIM = 27, 9, 4
WIDTH = HEADS * HEAD_DIM


def kinds(src: Placement, dst: Placement, width: int = WIDTH) -> list[tuple[str, int, int]]:
    return [(step.kind, step.size, step.stride) for step in transition(src, dst, width)]


LARGE = [pytest.param(world, marks=pytest.mark.long) for world in range(17, 25)]


@pytest.mark.parametrize("world", [*range(1, 17), *LARGE])
def test_every_ordered_pair_arrives(world: int) -> None:
    found = placements(world, HEADS, KV_HEADS, HEAD_DIM, ("groups",))
    assert len([placement for placement in found if placement.kind is PlacementKind.FULL]) == len(divisors(world))
    for src, dst in ordered_pairs(found):
        check_pair(src, dst, world, WIDTH, transition(src, dst, WIDTH))


@pytest.mark.parametrize("world", [4, 6, 8, 12])
def test_uneven_heads_arrive(world: int) -> None:
    """9 heads that share 3 KV heads, split both ways: every cut has another width."""
    found = placements(world, 9, 3, 5, ("groups", "balanced"))
    for src, dst in ordered_pairs(found):
        check_pair(src, dst, world, 45, transition(src, dst, 45))


def cuts_of(draw: st.DrawFn, size: int, width: int) -> Placement:
    """Any cuts that tile the width, in any order."""
    edges = sorted(draw(st.lists(st.integers(1, width - 1), min_size=size - 1, max_size=size - 1, unique=True)))
    cuts = list(zip([0, *edges], [*edges, width], strict=True))
    return shard(tuple(draw(st.permutations(cuts))))


@st.composite
def any_pair(draw: st.DrawFn) -> tuple[Placement, Placement, int, int]:
    world = draw(st.sampled_from([2, 4, 6, 8, 12]))
    width = draw(st.integers(world, 40))
    size_of = st.sampled_from(divisors(world))
    src = draw(st.sampled_from([full, partial, None])), draw(size_of)
    dst = draw(st.sampled_from([full, None])), draw(size_of)
    first, second = (cuts_of(draw, size, width) if kind is None else kind(size) for kind, size in (src, dst))
    return first, second, world, width


# a failing pair is small as it is; making it smaller can take minutes
@settings(phases=[Phase.reuse, Phase.generate])
@given(any_pair())
def test_any_cuts_arrive(pair: tuple[Placement, Placement, int, int]) -> None:
    src, dst, world, width = pair
    check_pair(src, dst, world, width, transition(src, dst, width))


def test_equal_placements_need_nothing() -> None:
    for placement in placements(12, HEADS, KV_HEADS, HEAD_DIM, ("groups",)):
        assert transition(placement, placement, WIDTH) == ()


def test_equal_sizes_are_not_equal_placements() -> None:
    """SHARD(8) from SHARD(2) holds eighths 0 4 1 5 2 6 3 7, from SHARD(4) 0 2 4 6 1 3 5 7."""
    two, four = (shard(splits_after(even_splits(8, t), 8)) for t in (2, 4))
    assert [lo for lo, _ in two.cuts] == [0, 4, 1, 5, 2, 6, 3, 7]
    assert [lo for lo, _ in four.cuts] == [0, 2, 4, 6, 1, 3, 5, 7]
    assert [step.kind for step in transition(two, four, 8)] == ["all_to_all"]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_nothing_leads_to_a_partial(size: int) -> None:
    assert transition(partial(size), partial(size), WIDTH) == ()
    for src in (full(1), full(size), partial(2 * size), shard(even_splits(WIDTH, size))):
        with pytest.raises(LayoutError, match=rf"PARTIAL\({size}\)"):
            transition(src, partial(size), WIDTH)


@pytest.mark.parametrize("cuts", [((0, 5), (6, 10)), ((0, 6), (5, 10)), ((0, 5), (5, 9)), ((1, 5), (5, 10))])
def test_cuts_that_do_not_tile_are_refused(cuts: tuple[tuple[int, int], ...]) -> None:
    for src, dst in ((shard(cuts), full(1)), (full(1), shard(cuts))):
        with pytest.raises(LayoutError, match="do not tile 10 columns"):
            transition(src, dst, 10)


@pytest.mark.parametrize("cuts", [((0, 10), (10, 10)), even_splits(10, 11)], ids=len)
def test_a_rank_without_a_column_is_refused(cuts: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(LayoutError, match="a rank would hold none of 10 columns"):
        transition(full(1), shard(cuts), 10)


def test_the_collectives_of_a_dense_decoder() -> None:
    assert kinds(partial(4), full(4)) == [("all_reduce", 4, 1)]
    assert kinds(partial(4), full(1)) == [("reduce_scatter", 4, 1)]
    assert kinds(full(1), full(4)) == [("all_gather", 4, 1)]
    assert kinds(full(2), full(8)) == [("all_gather", 4, 2)]
    assert kinds(full(8), full(2)) == [("slice", 1, 1)]
    assert kinds(full(4), full(6)) == [("slice", 1, 1), ("all_gather", 3, 2)]
    assert kinds(shard(even_splits(WIDTH, 4)), full(1)) == [("all_to_all", 4, 1)]
    assert kinds(shard(even_splits(WIDTH, 4)), full(4)) == [("all_gather", 4, 1)]
    assert kinds(partial(2), full(8)) == [("all_reduce", 2, 1), ("all_gather", 4, 2)]
    assert kinds(partial(8), full(2)) == [("reduce_scatter", 8, 1), ("all_gather", 2, 1)]


def test_o_proj_moves_inside_attentions_cuts() -> None:
    attention = shard(head_columns(9, 3, 64, 2))
    assert kinds(attention, shard(splits_after(attention.cuts, 8)), 576) == [("all_to_all", 4, 2)]
    assert kinds(attention, shard(splits_after(attention.cuts, 2)), 576) == []
    assert kinds(attention, shard(splits_after(attention.cuts, 3)), 576) == [("all_to_all", 6, 1)]


def test_shard_to_shard_is_one_call_inside_the_lcm_block() -> None:
    found = [p for p in placements(24, HEADS, KV_HEADS, HEAD_DIM, ("groups",)) if p.kind is PlacementKind.SHARD]
    for src, dst in ordered_pairs(found):
        steps = transition(src, dst, WIDTH)
        assert len(steps) == (src != dst)
        assert all(lcm(src.size, dst.size) % (step.size * step.stride) == 0 for step in steps)


def givers(src: Placement, dst: Placement, takers: range) -> list[list[int]]:
    """Per rank of `takers`, the others that it gets something from in the one step."""
    (step,) = transition(src, dst, WIDTH)
    return [[piece.peer for piece in step.received(rank) if piece.peer != rank] for rank in takers]


def test_what_a_rank_has_it_takes_from_nobody() -> None:
    assert givers(full(4), shard(even_splits(WIDTH, 8)), range(8)) == [[4], [5], [6], [7], [0], [1], [2], [3]]


def test_givers_of_copies_take_turns() -> None:
    """Ranks 6 and 8 lack what 0, 2 and 4 of their group hold alike; 0, 2 and 4 what 6 and 8 hold."""
    found = givers(full(6), shard(even_splits(WIDTH, 10)), range(0, 10, 2))
    assert found == [[6], [8], [6], [0], [2]]


def test_a_stride_that_fits_the_columns_but_not_the_blocks_is_not_taken() -> None:
    """Every taker's columns lie with the givers at its own position modulo 4, but blocks of 6 start elsewhere."""
    src = shard(even_splits(16, 4))
    dst = shard(((0, 2), (4, 6), (8, 12), (12, 16), (2, 4), (6, 8)))
    for first, second in ((src, dst), (dst, src)):
        assert kinds(first, second, 16) == [("all_to_all", 6, 2)]
        check_pair(first, second, 12, 16, transition(first, second, 16))


def test_a_world_of_thousands_is_worked_out_from_sizes() -> None:
    """The same record answers for every rank; groups and pieces of a far rank are the first block's, shifted."""
    columns = even_splits(4096 * 4, 8)
    (step,) = transition(shard(columns), shard(splits_after(columns, 64)), 4096 * 4)
    assert (step.size, step.stride) == (8, 8)
    near, far = step.received(13), step.received(13 + 4096 - 64)
    assert [piece.peer + 4032 for piece in near] == [piece.peer for piece in far]
    assert kinds(shard(columns), shard(splits_after(columns, 4096)), 4096 * 4) == [("all_to_all", 512, 8)]
    assert kinds(full(8), full(4096)) == [("all_gather", 512, 8)]
    assert kinds(partial(4096), full(1)) == [("reduce_scatter", 4096, 1)]


# received_bytes

ROWS = RowTable((3, 0, 2, 5, 1, 1, 0, 4, 2, 2, 7, 0))


def rows_of(placement: Placement, rank: int) -> int:
    first = rank // placement.size * placement.size
    return sum(ROWS.rows[first : first + placement.size])


def plain_bytes(src: Placement, dst: Placement, rank: int, width: int) -> int:
    """What a rank must get from others at 2 bytes: what it wants less what it has."""
    has, wants = (columns_held(p, rank, width) for p in (src, dst))
    blocks = [range(rank // p.size * p.size, (rank // p.size + 1) * p.size) for p in (src, dst)]
    both = sum(ROWS.rows[run] for run in blocks[0] if run in blocks[1])
    shared = max(0, min(has[1], wants[1]) - max(has[0], wants[0]))
    return 2 * (rows_of(dst, rank) * (wants[1] - wants[0]) - both * shared)


def test_bytes_are_what_a_rank_lacks() -> None:
    found = [p for p in placements(12, HEADS, KV_HEADS, HEAD_DIM, ("groups",)) if p.kind is not PlacementKind.PARTIAL]
    for src, dst in ordered_pairs(found):
        for step in transition(src, dst, WIDTH):
            for rank in range(12):
                expected = 0 if step.kind == "slice" else plain_bytes(step.src, step.dst, rank, WIDTH)
                assert received_bytes(step, rank, ROWS, 2) == expected
                if step.kind not in ("slice", "all_reduce"):
                    pieces = [piece for piece in step.received(rank) if piece.peer != rank]
                    areas = [ROWS.count(*piece.rows) * (piece.cols[1] - piece.cols[0]) for piece in pieces]
                    assert 2 * sum(areas) == expected


def test_groups_are_those_of_the_ranks() -> None:
    found = placements(12, HEADS, KV_HEADS, HEAD_DIM, ("groups",))
    for src, dst in ordered_pairs(found):
        for step in transition(src, dst, WIDTH):
            assert step.groups(24) == tuple(dict.fromkeys(step.group(rank) for rank in range(24)))


@pytest.mark.parametrize("size", [2, 3, 4, 6, 12])
def test_bytes_of_a_reduction(size: int) -> None:
    """A reduce_scatter brings every other rank's addend of the own rows; an all_reduce also the block's other rows."""
    (scatter,), (whole,) = transition(partial(size), full(1), WIDTH), transition(partial(size), full(size), WIDTH)
    for rank in range(12):
        own, block = ROWS.rows[rank], rows_of(full(size), rank)
        assert received_bytes(scatter, rank, ROWS, 4) == (size - 1) * own * WIDTH * 4
        assert received_bytes(whole, rank, ROWS, 4) == ((size - 1) * own + block - own) * WIDTH * 4


# faults: the tests above must see each of them

Fault = Callable[[tuple[RowRange, ...]], tuple[RowRange, ...]]


def wrong_rows(pieces: tuple[RowRange, ...]) -> tuple[RowRange, ...]:
    shift = 1 if pieces[-1].rows[0] == 0 else -1
    return *pieces[:-1], replace(pieces[-1], rows=(pieces[-1].rows[0] + shift, pieces[-1].rows[1] + shift))


def wrong_giver(pieces: tuple[RowRange, ...]) -> tuple[RowRange, ...]:
    return replace(pieces[0], peer=pieces[-1].peer), *pieces[1:]


def missing(pieces: tuple[RowRange, ...]) -> tuple[RowRange, ...]:
    return pieces[:-1]


def twice(pieces: tuple[RowRange, ...]) -> tuple[RowRange, ...]:
    return *pieces, pieces[0]


def swapped_runs(pieces: tuple[RowRange, ...]) -> tuple[RowRange, ...]:
    first, *between, last = pieces
    return replace(first, rows=last.rows), *between, replace(last, rows=first.rows)


def narrower(pieces: tuple[RowRange, ...]) -> tuple[RowRange, ...]:
    return *pieces[:-1], replace(pieces[-1], cols=(pieces[-1].cols[0], pieces[-1].cols[1] - 1))


PAIRS = [
    (full(1), full(4)),
    (full(2), shard(even_splits(WIDTH, 4))),
    (shard(even_splits(WIDTH, 4)), full(1)),
    (partial(4), full(1)),
    (partial(4), full(4)),
]
FAULTS = [(src, dst, fault) for src, dst in PAIRS for fault in (wrong_rows, wrong_giver, missing, twice, narrower)]
# elsewhere all pieces of a rank have the same runs
FAULTS += [(src, dst, swapped_runs) for src, dst in PAIRS[:2]]


@pytest.mark.parametrize(("src", "dst", "fault"), FAULTS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_fault_in_the_pieces_is_seen(
    src: Placement, dst: Placement, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one rank of four, sender and receiver agreeing on it."""
    steps = transition(src, dst, WIDTH)
    check_pair(src, dst, 4, WIDTH, steps)
    right = Step.received

    def received(self: Step, rank: int) -> tuple[RowRange, ...]:
        return fault(right(self, rank)) if rank == 2 else right(self, rank)

    def sent(self: Step, rank: int) -> tuple[RowRange, ...]:
        takers = ((taker, piece) for taker in self.group(rank) for piece in received(self, taker))
        return tuple(replace(piece, peer=taker) for taker, piece in takers if piece.peer == rank)

    monkeypatch.setattr(Step, "received", received)
    monkeypatch.setattr(Step, "sent", sent)
    with pytest.raises(AssertionError):
        check_pair(src, dst, 4, WIDTH, steps)


def test_a_sender_that_disagrees_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = transition(full(1), full(4), WIDTH)
    right = Step.sent
    monkeypatch.setattr(Step, "sent", lambda self, rank: right(self, rank)[1:])
    with pytest.raises(AssertionError, match="not what is received"):
        check_pair(full(1), full(4), 4, WIDTH, steps)


@pytest.mark.parametrize(
    ("src", "dst", "wrong"),
    [
        (full(1), full(6), Step("all_gather", 3, 2, full(1), full(6), WIDTH)),
        (full(4), full(6), Step("all_gather", 3, 4, full(4), full(6), WIDTH)),
        (partial(6), full(6), Step("all_reduce", 3, 1, partial(6), full(6), WIDTH)),
        (partial(6), full(1), Step("reduce_scatter", 3, 2, partial(6), full(1), WIDTH)),
        (shard(even_splits(WIDTH, 6)), full(1), Step("all_to_all", 2, 3, shard(even_splits(WIDTH, 6)), full(1), WIDTH)),
    ],
    ids=str,
)
def test_a_wrong_group_is_seen(src: Placement, dst: Placement, wrong: Step) -> None:
    with pytest.raises(AssertionError):
        check_pair(src, dst, 12, WIDTH, (wrong,))
