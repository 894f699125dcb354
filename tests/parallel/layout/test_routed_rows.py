"""Sizes of routed messages against plain enumeration, and the rule that chooses a dispatcher."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.parallel.layout.layout import Layout
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.routed import RoutedBlock, Routing, dispatch_of, routed_block

blocks = st.builds(
    RoutedBlock,
    st.integers(1, 3),
    st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple),
    st.integers(1, 4),
).filter(lambda block: block.top_k <= sum(block.slots))


@st.composite
def blocks_with_rows(draw: st.DrawFn) -> tuple[RoutedBlock, list[int]]:
    block = draw(blocks)
    return block, draw(st.lists(st.integers(0, 40), min_size=block.size, max_size=block.size))


@given(blocks)
def test_chances_are_those_of_all_sets_of_choices(block: RoutedBlock) -> None:
    ends = list(itertools.accumulate(block.slots, initial=0))
    sets = list(itertools.combinations(range(sum(block.slots)), block.top_k))
    for position, chance in enumerate(block.chances):
        hit = sum(any(ends[position] <= slot < ends[position + 1] for slot in chosen) for chosen in sets)
        assert chance == Fraction(hit, len(sets))


@given(blocks_with_rows())
def test_ranks_agree_on_what_they_exchange(case: tuple[RoutedBlock, list[int]]) -> None:
    block, rows = case
    splits = [block.uniform_splits(rows, place) for place in range(block.size)]
    for source, taker in itertools.product(range(block.size), repeat=2):
        position = block.position(taker)
        assert splits[source].rows_out[position] == splits[taker].rows_in[source] <= rows[source]
        assert splits[source].answers_in[position] == splits[taker].answers_out[source]
    for place, split in enumerate(splits):
        assert sum(split.answers_in) == rows[place] * block.top_k
        expected = rows[place] * sum(block.chances, Fraction())
        assert abs(sum(split.rows_out) - expected) <= Fraction(1, 2)
        received, most = block.received(split, place), block.most_received(rows, place)
        assert received[0] <= most[0] and most[1] <= block.tp * rows[place] * block.top_k


@given(blocks_with_rows())
def test_every_rank_receives_what_it_expects_within_rounding(case: tuple[RoutedBlock, list[int]]) -> None:
    block, rows = case
    for place in range(block.size):
        split, position = block.uniform_splits(rows, place), block.position(place)
        for source in range(block.size):
            assert abs(split.rows_in[source] - rows[source] * block.chances[position]) < 1


@given(blocks_with_rows())
def test_what_all_ranks_receive_is_what_each_does(case: tuple[RoutedBlock, list[int]]) -> None:
    block, rows = case
    each = [block.received(block.uniform_splits(rows, place), place) for place in range(block.size)]
    assert block.uniform_received(rows) == each


@given(blocks)
def test_the_most_is_what_the_worst_choices_receive(block: RoutedBlock) -> None:
    """One row on every rank, all sets of choices tried."""
    edges = list(itertools.accumulate(block.slots))
    home = [next(p for p, edge in enumerate(edges) if slot < edge) for slot in range(edges[-1])]
    sets = [[home[slot] for slot in chosen] for chosen in itertools.combinations(range(edges[-1]), block.top_k)]
    for place in range(block.size):
        rows, answers = block.most_received([1] * block.size, place)
        mine = block.position(place)
        worst = max(sum(block.tp - (position == mine) for position in chosen) for chosen in sets)
        assert answers == worst
        assert rows == sum(1 for source in range(block.size) if source != place)


def layout(world: int, experts: int = 256, **given: object) -> Layout:
    names = {f"experts.{name}": value for name, value in given.items()}
    return resolve({"attention.dp": world, **names}, world, num_experts=experts)


@pytest.mark.parametrize(
    ("world", "experts", "routing", "form"),
    [
        (1, 8, Routing(4096, 2), "all_gather"),
        (2, 8, Routing(4096, 2), "all_gather"),  # half of the rows stay: little to save
        (4, 8, Routing(4096, 2), "all_to_all"),
        (4, 8, Routing(32, 2), "all_gather"),  # narrow rows: calls cost more than bytes
        (4, 8, Routing(4096, 8), "all_gather"),  # every row goes everywhere, with an answer for each choice
        (32, 256, Routing(7168, 8), "all_to_all"),
    ],
)
def test_auto_takes_the_exchange_where_it_saves_a_quarter(
    world: int, experts: int, routing: Routing, form: str
) -> None:
    found = layout(world, experts)
    assert found.experts is not None
    dispatch = dispatch_of(found, found.experts, routing)
    assert dispatch.form == form
    assert dispatch.reason.startswith("auto: at 64 rows" if world > 1 else "an expert block is one rank")


def test_what_is_given_is_taken() -> None:
    for form in ("all_gather", "all_to_all"):
        found = layout(4, dispatch=form)
        assert found.experts is not None
        assert dispatch_of(found, found.experts, Routing(64, 2)).form == form


def test_slots_of_positions_are_those_of_the_weights() -> None:
    found = layout(4, 10, ep=2, tp=2)
    assert found.experts is not None
    assert routed_block(found.experts, 2) == RoutedBlock(2, (5, 5), 2)
    found = layout(4, 5)
    assert found.experts is not None
    assert routed_block(found.experts, 2) == RoutedBlock(1, (2, 1, 1, 1), 2)


def test_a_wide_block_is_counted_quickly() -> None:
    """Numbers alone: a block of 288 ranks, every rank's messages."""
    block = RoutedBlock(1, (1,) * 288, 8)
    received = [sum(block.received(block.uniform_splits([7] * 288, place), place)) for place in range(288)]
    assert len(set(received)) == 1 and received[0] > 0


@pytest.mark.parametrize(("tp", "positions", "step"), [(1, 256, 4), (1, 32, 4), (1, 16, 2), (2, 16, 4)])
def test_ranks_with_rows_at_even_distances_reach_all_positions_alike(tp: int, positions: int, step: int) -> None:
    block = RoutedBlock(tp, (256 // positions,) * positions, 8)
    rows = [1 if place % step == 0 else 0 for place in range(block.size)]
    received = [sum(block.uniform_splits(rows, place).rows_in) for place in range(block.size)]
    assert max(received) - min(received) <= 1
