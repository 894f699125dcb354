"""Cuts: heads in whole groups or evenly, columns evenly, and the cuts that follow from other cuts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.base.errors import LayoutError
from weft.parallel.layout.layout import Split
from weft.parallel.layout.splits import HeadShare, assign_heads, even_splits, splits_after

MODELS = [(9, 3), (32, 8), (14, 2), (12, 12), (8, 1), (28, 4), (1, 1), (15, 5)]


def widths(cuts: tuple[tuple[int, int], ...]) -> list[int]:
    return [hi - lo for lo, hi in cuts]


@given(st.integers(0, 200), st.integers(1, 40))
def test_even_cuts(n: int, k: int) -> None:
    cuts = even_splits(n, k)
    assert len(cuts) == k and cuts[0][0] == 0 and cuts[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    assert widths(cuts) == sorted(widths(cuts), reverse=True) and max(widths(cuts)) - min(widths(cuts)) <= 1


def q_counts(shares: tuple[HeadShare, ...]) -> list[int]:
    return [share.q[1] - share.q[0] for share in shares]


def test_heads_of_smollm2() -> None:
    """9 heads on 3 KV heads."""
    assert q_counts(assign_heads(9, 3, 1, "groups")) == [9]
    assert q_counts(assign_heads(9, 3, 2, "groups")) == [6, 3]
    assert q_counts(assign_heads(9, 3, 3, "groups")) == [3, 3, 3]
    assert q_counts(assign_heads(9, 3, 4, "groups")) == [2, 1, 3, 3]
    assert q_counts(assign_heads(9, 3, 6, "groups")) == [2, 1, 2, 1, 2, 1]
    assert q_counts(assign_heads(9, 3, 9, "groups")) == [1] * 9
    assert [share.kv for share in assign_heads(9, 3, 4, "groups")] == [(0, 1), (0, 1), (1, 2), (2, 3)]
    assert assign_heads(9, 3, 2, "balanced") == (HeadShare((0, 5), (0, 2)), HeadShare((5, 9), (1, 3)))


@pytest.mark.parametrize("split", ["auto", "groups", "balanced"])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_head_is_dealt_once_with_its_kv_head(model: tuple[int, int], split: Split) -> None:
    heads, kv_heads = model
    for tp in range(1, heads + 1):
        shares = assign_heads(heads, kv_heads, tp, split)
        assert len(shares) == tp and min(q_counts(shares)) >= 1
        assert [h for share in shares for h in range(*share.q)] == list(range(heads))
        for share in shares:
            assert set(range(*share.kv)) == {h * kv_heads // heads for h in range(*share.q)}
        if split == "balanced":
            assert max(q_counts(shares)) - min(q_counts(shares)) <= 1


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_groups_stay_whole_and_no_rank_holds_two_kv_heads_without_need(model: tuple[int, int]) -> None:
    heads, kv_heads = model
    for tp in range(1, heads + 1):
        held = [share.kv[1] - share.kv[0] for share in assign_heads(heads, kv_heads, tp, "groups")]
        if tp <= kv_heads:
            assert sum(held) == kv_heads and max(held) - min(held) <= 1
        else:
            assert held == [1] * tp


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_auto_relieves_the_busiest_rank_and_fills_no_rank_more(model: tuple[int, int]) -> None:
    def most(shares: tuple[HeadShare, ...]) -> tuple[int, int]:
        return max(q_counts(shares)), max(share.kv[1] - share.kv[0] for share in shares)

    for tp in range(1, model[0] + 1):
        found, groups, balanced = (assign_heads(*model, tp, split) for split in ("auto", "groups", "balanced"))
        gains = most(balanced)[0] < most(groups)[0] and most(balanced)[1] <= most(groups)[1]
        assert found == (balanced if gains else groups)


def test_heads_of_smollm2_are_dealt_evenly_where_that_costs_no_kv_head() -> None:
    assert q_counts(assign_heads(9, 3, 2)) == [5, 4]
    assert q_counts(assign_heads(9, 3, 4)) == [2, 1, 3, 3], "evenly, a rank would store two KV heads instead of one"


@pytest.mark.parametrize("tp", [0, 10, 12])
def test_a_rank_without_a_head_is_refused(tp: int) -> None:
    with pytest.raises(LayoutError, match=f"attention.tp {tp}: the model has 9 heads .* legal: 1 to 9") as refused:
        assign_heads(9, 3, tp)
    assert refused.value.field == "attention.tp" and refused.value.legal == tuple(range(1, 10))


def test_kv_heads_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(LayoutError, match="9 heads cannot share 2 KV heads"):
        assign_heads(9, 2, 1)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 60))
def test_cuts_for_tile_and_follow(t: int, k: int, extra: int) -> None:
    width = t * 12 + extra
    src = even_splits(width, t)
    cuts = splits_after(src, k)
    assert len(cuts) == k
    assert [c for cut in sorted(cuts) for c in range(*cut)] == list(range(width))
    if k == t:
        assert cuts == src
    elif k % t == 0:
        assert all(src[p % t][0] <= lo and hi <= src[p % t][1] for p, (lo, hi) in enumerate(cuts))
        assert all(cuts[p][0] < cuts[p + t][0] for p in range(k - t))
    elif t % k == 0:
        assert all((src[j * (t // k)][0], src[(j + 1) * (t // k) - 1][1]) == cut for j, cut in enumerate(cuts))
    else:
        assert cuts == even_splits(width, k)


def test_cuts_for_uneven_heads() -> None:
    """9 heads of 64 columns over 2 ranks, 6 and 3: each rank's own share in halves, quarters; or both together."""
    heads = ((0, 384), (384, 576))
    assert splits_after(heads, 4) == ((0, 192), (384, 480), (192, 384), (480, 576))
    assert [lo for lo, _ in splits_after(heads, 8)] == [0, 384, 96, 432, 192, 480, 288, 528]
    assert splits_after(heads, 1) == ((0, 576),)
    assert splits_after(heads, 3) == even_splits(576, 3)


def test_neighbours_out_of_order_are_not_merged() -> None:
    swapped = ((0, 4), (8, 12), (4, 8), (12, 16))
    assert splits_after(swapped, 2) == even_splits(16, 2)
