"""Placements, routing tables, shapes, loads and the metric."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.base.errors import ConfigError
from weft.parallel.experts import (
    ExpertPlacement,
    RoutingTable,
    SlotShape,
    as_loads,
    balance,
    even_placement,
    rank_loads,
)
from weft.parallel.experts.statistics.loads import normalized

SMALL = ExpertPlacement(np.array([[0, 1, 0, 2], [2, 1, 0, 2]]), experts=3, ranks=2)


def test_counts_and_sizes() -> None:
    assert SMALL.counts().tolist() == [[2, 1, 1], [1, 1, 2]]
    assert (SMALL.layers, SMALL.slots, SMALL.slots_per_rank) == (2, 4, 2)
    assert SMALL.by_rank()[1].tolist() == [[2, 1], [0, 2]]


def test_a_placement_does_not_change_with_its_source() -> None:
    table = np.array([[0, 1]])
    placement = ExpertPlacement(table, 2, 2)
    table[0, 0] = 1
    assert placement.phy2log.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="read-only"):
        placement.phy2log[0, 0] = 1


@pytest.mark.parametrize(
    "rows, experts, ranks, message",
    [
        ([[0, 1, 1]], 2, 2, "not divisible by 2 ranks"),
        ([[0, 1, 3, 2]], 3, 2, "expert 3 in slot 2 of layer 0; legal: 0 to 2"),
        ([[0, -1]], 1, 2, "expert -1 in slot 1"),
        ([[0, 1], [1, 1]], 2, 2, "expert 0 has no slot in layer 1"),
        ([0, 1], 2, 2, "wanted \\[layers\\]\\[slots\\]"),
        ([[0]], 2, 1, "2 experts need a slot each"),
    ],
)
def test_what_is_no_placement(rows: list[object], experts: int, ranks: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExpertPlacement(np.array(rows), experts, ranks)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((8, 6, 2), "slots 6: 8 experts need a slot each; legal with 2 ranks: 8, 10, 12, 14, 16"),
        ((8, 9, 2), "slots 9: not divisible by 2 ranks; legal with 2 ranks: 8, 10"),
        ((2, 6, 2), "slots 6: 2 ranks hold every one of 2 experts with 4 slots; legal with 2 ranks: 2, 4"),
        ((8, 8, 4, 3), "nodes 3: does not divide 4 ranks; legal: 1, 2, 4"),
        ((8, 8, 4, 2, 3), "groups 3: does not divide 8 experts; legal: 1, 2, 4, 8"),
        ((12, 12, 4, 4, 6), "groups 6: not divisible by 4 nodes; legal: 1, 4, 12"),
        ((0, 8, 4), "experts 0: at least 1"),
        ((8, 8, 0), "ranks 0: at least 1"),
    ],
)
def test_shapes_are_refused_with_legal_values(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SlotShape(*sizes)
    assert message in str(caught.value)
    assert caught.value.field is not None and caught.value.field in message


def test_legal_values_are_legal() -> None:
    for sizes in ((8, 6, 2), (12, 12, 4, 4, 6), (10, 33, 16)):
        with pytest.raises(ConfigError) as caught:
            SlotShape(*sizes)
        for value in caught.value.legal:
            names = ("experts", "slots", "ranks", "nodes", "groups")
            changed: dict[str, Any] = dict(zip(names, sizes, strict=False)) | {str(caught.value.field): value}
            SlotShape(**changed)


@pytest.mark.parametrize(
    "values, message",
    [
        ([[1.0, float("nan")]], "load nan of layer 0, expert 1 is not a finite number"),
        ([[1.0, float("inf")]], "load inf"),
        ([[1, 2], [3, -4]], "load -4.0 of layer 1, expert 1 is negative"),
        ([[[1, 2]], [[3, -4]]], "load -4.0 of interval 1, layer 0, expert 1 is negative"),
        ([[0, 0], [0, 0]], "every load is zero"),
        ([[1, 2], [3]], "rows of different length"),
        ([1, 2], "shape \\[2\\]"),
        ([[]], "shape \\[1, 0\\]"),
        ("many", "rows of different length, or not numbers"),
    ],
)
def test_what_are_no_loads(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_loads(values)


def test_intervals_are_added() -> None:
    assert as_loads([[[1, 2]], [[3, 4]]]).tolist() == [[4, 6]]


def test_normalized_loads_neither_overflow_nor_vanish() -> None:
    shares = normalized(np.array([[1e308, 1e308], [1e-300, 3e-300], [0, 0]]))
    assert shares.tolist() == [[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]


def test_balance_by_hand() -> None:
    loads = np.array([[6.0, 2, 4], [0, 0, 0]])
    assert rank_loads(SMALL, loads).tolist() == [[5, 7], [0, 0]]
    found = balance(SMALL, loads)
    assert found.per_layer == (6 / 7, None)
    assert found.mean == found.min == 6 / 7
    with pytest.raises(ConfigError, match="1 layers of 3 experts; wanted 2 layers of 3"):
        balance(SMALL, loads[:1])


def test_routing_lists_every_slot() -> None:
    table = SMALL.routing(1)
    assert [table.replicas(expert) for expert in range(3)] == [[2], [1], [0, 3]]
    assert table.log2phy.tolist() == [[2, -1], [1, -1], [0, 3]]


@given(st.lists(st.integers(-1, 4), max_size=60), st.integers(0, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_rows_spread_evenly_over_replicas(rows: list[int], offset: int, seed: int) -> None:
    slots = np.random.default_rng(seed).permutation([0, 1, 2, 3, 4, 0, 0, 3])
    table = RoutingTable.build(slots, 5)
    experts = np.array(rows, dtype=np.int64)
    chosen = table.spread(experts, offset)
    assert [-1 if slot < 0 else slots[slot] for slot in chosen] == rows
    for expert in range(5):
        used = Counter(chosen[experts == expert].tolist())
        counts = [used[slot] for slot in table.replicas(expert)]
        assert max(counts) - min(counts) <= 1


def test_spread_keeps_the_shape_and_turns_with_the_offset() -> None:
    table = RoutingTable.build(np.array([0, 1, 0]), 2)
    assert table.spread(np.array([[0, 1], [0, 0]])).tolist() == [[0, 1], [2, 0]]
    assert table.spread(np.array([[0, 1], [0, 0]]), offset=1).tolist() == [[2, 1], [0, 2]]


def test_transfers_rebuild_the_new_placement() -> None:
    random = np.random.default_rng(3)
    rows = [[np.concatenate((random.permutation(6), random.integers(0, 6, 3))) for _ in range(4)] for _ in range(2)]
    old, new = (ExpertPlacement(np.stack(layers), 6, 3) for layers in rows)
    held = old.phy2log.copy()
    for move in new.transfers(old):
        assert old.phy2log[move.layer, move.source] == move.expert
        held[move.layer, move.slot] = move.expert
    assert (held == new.phy2log).all()
    assert len(new.transfers(old)) == new.moved(old).sum()


def test_transfers_come_from_the_own_rank_or_in_turn() -> None:
    old = ExpertPlacement(np.array([[0, 1, 0, 2, 3, 4, 5, 6]]), 7, 4)
    near = ExpertPlacement(np.array([[1, 0, 0, 2, 3, 4, 5, 6]]), 7, 4)
    assert [move.source for move in near.transfers(old)] == [1, 0]
    start = even_placement(1, SlotShape(3, 6, 3))
    after = ExpertPlacement(np.array([[0, 1, 2, 0, 0, 0]]), 3, 3)
    assert [(move.slot, move.source) for move in after.transfers(start)] == [(4, 0), (5, 3)]


def test_alignment_moves_nothing_idly() -> None:
    old = ExpertPlacement(np.array([[3, 1, 0, 2]]), 4, 2)
    new = ExpertPlacement(np.array([[1, 3, 2, 0]]), 4, 2)
    assert new.aligned(old).moved(old).tolist() == [0]
    other = ExpertPlacement(np.array([[0, 1, 2, 3]]), 4, 2)
    assert other.aligned(old).phy2log.tolist() == [[0, 1, 3, 2]]


def test_placements_of_other_sizes_are_not_compared() -> None:
    with pytest.raises(ConfigError, match="layers 1; the other placement has 2"):
        SMALL.moved(ExpertPlacement(SMALL.phy2log[:1], 3, 2))
