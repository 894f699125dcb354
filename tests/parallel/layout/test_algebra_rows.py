"""Row tables: rows split evenly over ranks, sampled rows staying with the owner of their row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.base.errors import WeftError
from weft.parallel.layout.rows import RowTable, row_table, sampled_among, sampled_table


def test_rows_are_cut_evenly_and_the_first_take_the_remainder() -> None:
    assert row_table([7, 0, 2], 3) == RowTable((3, 2, 2, 0, 0, 0, 1, 1, 0))
    assert row_table([7, 0, 2], 1) == RowTable((7, 0, 2))


def test_starts_and_counts() -> None:
    table = RowTable((3, 0, 2, 4))
    assert [table.start(run) for run in range(5)] == [0, 3, 3, 5, 9]
    assert (table.count(0, 4), table.count(1, 3), table.count(2, 2)) == (9, 2, 0)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[list[int]], int]:
    """(rows of each attention block, its sampled rows, tp)."""
    rows = draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    sampled = [sorted(draw(st.sets(st.integers(0, n - 1)))) if n else [] for n in rows]
    return rows, sampled, draw(st.integers(1, 6))


@given(batches())
def test_every_row_has_one_owner_in_order(batch: tuple[list[int], list[list[int]], int]) -> None:
    rows, sampled, tp = batch
    table = row_table(rows, tp)
    assert len(table.rows) == len(rows) * tp
    for group, n in enumerate(rows):
        own = table.rows[group * tp : (group + 1) * tp]
        assert sum(own) == n and max(own) - min(own) <= 1 and list(own) == sorted(own, reverse=True)
    counts, offsets = sampled_table(sampled, table, tp)
    assert counts.rows == tuple(map(len, offsets))
    for group, wanted in enumerate(sampled):
        ranks = range(group * tp, (group + 1) * tp)
        base = table.start(ranks[0])
        assert [table.start(r) - base + at for r in ranks for at in offsets[r]] == wanted
        assert all(0 <= at < table.rows[r] for r in ranks for at in offsets[r])
        assert list(sampled_among(offsets, table, ranks[0], ranks[-1] + 1)) == wanted
        assert all(sampled_among(offsets, table, r, r + 1) == offsets[r] for r in ranks)


@pytest.mark.parametrize("sampled", [[3, 1], [2, 2], [5], [-1, 0]])
def test_rows_that_are_not_the_blocks_are_refused(sampled: list[int]) -> None:
    with pytest.raises(WeftError, match="sampled rows of the attention block at rank 2"):
        sampled_table([[], sampled], row_table([4, 5], 2), 2)
