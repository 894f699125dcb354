"""Ranks as numbers: order of the axes, blocks, names."""

from __future__ import annotations

import pytest

from weft.parallel.layout import Coords, block, coords, describe, resolve
from weft.parallel.layout.ranks import node_of, rank_at, stage_ranks

SMALL = {"attention.tp": 2, "attention.cp": 3, "attention.dp": 2, "pipeline.stages": 2, "replicas": 2, "nodes": 4}


def test_tp_is_fastest_and_replica_slowest() -> None:
    layout = resolve(SMALL)
    assert layout.world == 48
    places = [coords(layout, rank) for rank in range(48)]
    assert [(p.replica, p.stage, p.dp, p.cp, p.tp) for p in places] == [
        (replica, stage, dp, cp, tp)
        for replica in range(2)
        for stage in range(2)
        for dp in range(2)
        for cp in range(3)
        for tp in range(2)
    ]


def test_rank_at_is_the_inverse() -> None:
    layout = resolve(SMALL)
    assert [rank_at(layout, coords(layout, rank)) for rank in range(48)] == list(range(48))
    assert rank_at(layout, Coords(1, 0, 1, 2, 1)) == 35


@pytest.mark.parametrize("rank", [-1, 48])
def test_outside_the_world(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} is not in a world of 48"):
        coords(resolve(SMALL), rank)


def test_blocks_stages_and_nodes() -> None:
    layout = resolve(SMALL)
    assert block(5, 4) == (4, 5, 6, 7) and block(5, 1) == (5,)
    assert stage_ranks(layout, 13) == tuple(range(12, 24))
    assert [node_of(layout, rank) for rank in (0, 11, 12, 47)] == [0, 0, 1, 3]


def test_names_leave_out_axes_of_size_one() -> None:
    assert describe(resolve({}), 0) == "rank 0"
    assert describe(resolve({"attention.tp": 2}, 4), 3) == "rank 3 (dp 1, tp 1)"
    assert describe(resolve(SMALL), 35) == "rank 35 (replica 1, stage 0, dp 1, cp 2, tp 1)"
