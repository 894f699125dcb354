"""Transitions: every ordered pair of placements in every world up to 24, by brute force on who holds what."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest
from algebra_ownership import check_pair, head_columns, ordered_pairs, placements

from weft.errors import LayoutError
from weft.layout.cuts import cuts_for, even_cuts
from weft.layout.placement import Placement, full, partial, shard
from weft.layout.rows import RowTable
from weft.layout.transition import Piece, Step, cost, received_bytes, transition

HEADS, KV_HEADS, HEAD_DIM = 27, 9, 4
WIDTH = HEADS * HEAD_DIM


@pytest.mark.parametrize("world", range(1, 25))
def test_every_ordered_pair_arrives(world: int) -> None:
    found = placements(world, HEADS, KV_HEADS, HEAD_DIM, ("groups",))
    for src, dst in ordered_pairs(found):
        check_pair(src, dst, world, WIDTH, transition(src, dst, WIDTH))
