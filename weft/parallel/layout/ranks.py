"""Ranks as numbers: coordinates, blocks and names."""

from __future__ import annotations

from dataclasses import dataclass

from weft.parallel.layout.layout import Layout

Group = tuple[int, ...]
"""Ascending ranks."""


@dataclass(frozen=True, slots=True)
class Coords:
    """Where a rank stands on each axis."""

    replica: int
    stage: int
    dp: int
    cp: int
    tp: int


def coords(layout: Layout, rank: int) -> Coords:
    """Coordinates of a rank of the world, tp fastest. ValueError outside the world."""
    if not 0 <= rank < layout.world:
        raise ValueError(f"rank {rank} is not in a world of {layout.world} ranks")
    attention = layout.attention
    rest, tp = divmod(rank, attention.tp)
    rest, cp = divmod(rest, attention.cp)
    rest, dp = divmod(rest, attention.dp)
    replica, stage = divmod(rest, layout.pipeline.stages)
    return Coords(replica, stage, dp, cp, tp)


def rank_at(layout: Layout, at: Coords) -> int:
    """The rank with these coordinates; the inverse of `coords`."""
    attention = layout.attention
    stage = at.replica * layout.pipeline.stages + at.stage
    return ((stage * attention.dp + at.dp) * attention.cp + at.cp) * attention.tp + at.tp


def block(rank: int, size: int) -> Group:
    """The block of `size` consecutive ranks that holds `rank`."""
    first = rank // size * size
    return tuple(range(first, first + size))


def stage_ranks(layout: Layout, rank: int) -> Group:
    """All ranks of this rank's pipeline stage and replica."""
    return block(rank, layout.stage_size)


def owners_of(layout: Layout, rank: int) -> Group:
    """The ranks that keep the positions of one request, each its own, for the KV heads of `rank`: owner o is the o-th.
    Numbers inside the stage. With kv_split they are neighbours in an attention block, with cp alike in several."""
    attention, place = layout.attention, rank % layout.stage_size
    first = place - place % layout.group_size + place % attention.tp // attention.kv_split * attention.kv_split
    blocks = range(first, first + layout.group_size, attention.tp)
    return tuple(block + member for block in blocks for member in range(attention.kv_split))


def node_of(layout: Layout, rank: int) -> int:
    """The node that a rank is on."""
    return rank // layout.ranks_per_node


def describe(layout: Layout, rank: int) -> str:
    """'rank 3 (dp 1, tp 1)': the rank and its place on every axis longer than one."""
    at, attention = coords(layout, rank), layout.attention
    axes = (
        ("replica", at.replica, layout.replicas),
        ("stage", at.stage, layout.pipeline.stages),
        ("dp", at.dp, attention.dp),
        ("cp", at.cp, attention.cp),
        ("tp", at.tp, attention.tp),
    )
    shown = ", ".join(f"{name} {place}" for name, place, size in axes if size > 1)
    return f"rank {rank} ({shown})" if shown else f"rank {rank}"
