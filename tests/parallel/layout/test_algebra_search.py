"""Transitions cost what a plain search over the primitives finds, for every ordered pair of placements."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.parallel.layout.algebra_ownership import check_pair, divisors, ordered_pairs, placements
from tests.parallel.layout.transition_search import Graph
from weft.parallel.layout.layout import Split
from weft.parallel.layout.placement import Interval, Placement, PlacementKind, full, partial, shard
from weft.parallel.layout.splits import even_splits, splits_after
from weft.parallel.layout.transition import Step, cost, transition

SPLITS: tuple[Split, ...] = ("groups", "balanced")


def in_order_of(cuts: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """Even cuts, assigned to the positions in the order that `cuts` has."""
    even = iter(even_splits(max(hi for _, hi in cuts), len(cuts)))
    dealt = dict(zip(sorted(cuts), even, strict=True))
    return tuple(dealt[cut] for cut in cuts)


def between(dst: Placement, found: list[Placement], world: int, width: int) -> list[Placement]:
    """What may lie on the way to dst: FULL of every size, and SHARD of every size with cuts that have to do with dst's.

    That is cuts that follow from dst's, cuts that dst's follow from, and even cuts in the order of any of these.
    """
    cuts = [even_splits(width, size) for size in divisors(world)]
    if dst.kind is PlacementKind.SHARD:
        cuts += [splits_after(dst.cuts, size) for size in divisors(world)]
        cuts += [p.cuts for p in found if p.kind is PlacementKind.SHARD and splits_after(p.cuts, dst.size) == dst.cuts]
    return [*map(full, divisors(world)), *map(shard, cuts), *(shard(in_order_of(c)) for c in cuts)]


def check_world(world: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """Compares every ordered pair with the search; returns their number."""
    width = heads * head_dim
    found = placements(world, heads, kv_heads, head_dim, SPLITS)
    graph = Graph(world, width)
    wrong, pairs = [], list(ordered_pairs(found))
    for src, dst in pairs:
        got = cost(transition(src, dst, width))
        least = graph.least(src, dst, between(dst, found, world, width))
        if got != least:
            wrong.append((str(src), src.cuts, str(dst), dst.cuts, got, least))
    assert not wrong, f"{len(wrong)} of {len(pairs)}: {wrong[:3]}"
    return len(pairs)


LONG = pytest.mark.long
MODELS = [(14, 7, 3), (9, 3, 4), (14, 2, 5), (24, 8, 2)]
"""(heads, KV heads, head dim)"""


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("world", [*range(1, 9), *(pytest.param(n, marks=LONG) for n in (9, 10, 11, 12, 16, 18))])
def test_cost_is_the_least(world: int, model: tuple[int, int, int]) -> None:
    check_world(world, *model)


def dearer(steps: tuple[Step, ...], fault: str) -> tuple[Step, ...]:
    """The same transition, done in a way that is right but not the cheapest."""
    last = steps[-1]
    if fault == "wider group":
        return *steps[:-1], replace(last, size=last.size * last.stride, stride=1)
    via = full(1)
    return (*transition(last.src, via, last.width), *transition(via, last.dst, last.width))


@pytest.mark.parametrize(
    ("fault", "src", "dst"),
    [
        ("wider group", full(2), full(8)),
        ("wider group", full(4), full(6)),
        ("wider group", shard(even_splits(24, 2)), shard(splits_after(even_splits(24, 2), 6))),
        ("through the scattered state", shard(even_splits(24, 2)), full(4)),
        ("through the scattered state", partial(4), full(4)),
        ("through the scattered state", full(2), shard(even_splits(24, 4))),
    ],
    ids=str,
)
def test_the_search_finds_a_dear_way_too_dear(fault: str, src: Placement, dst: Placement) -> None:
    world = src.size * dst.size
    least = Graph(world, 24).least(src, dst, between(dst, [], world, 24))
    steps = transition(src, dst, 24)
    assert cost(steps) == least
    costly = dearer(steps, fault)
    check_pair(src, dst, world, 24, costly)
    assert cost(costly) > least
