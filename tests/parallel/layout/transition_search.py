"""A plain Dijkstra search over the primitives: the answer key of what a transition may cost at the least.

Nodes are placements, edges single primitives between two of them, found by trying every kind in every strided group on
plain sets of cells (bits of an integer: run * width + column). Uses nothing of the product's transitions.
Costs compare as (columns received, calls, group sizes, kinds); every entry is added up along the path, where the
columns of a call are the most that any rank receives. A PARTIAL is left by one reduction over its whole block only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from tests.parallel.layout.algebra_ownership import columns_held, divisors
from weft.parallel.layout.placement import Placement, PlacementKind

Cost = tuple[int, int, int, tuple[str, ...]]
Cells = tuple[int, ...]
FREE: Cost = (0, 0, 0, ())


def cells_held(placement: Placement, world: int, width: int) -> Cells:
    """The cells of every rank as bits."""
    return tuple(_cells(placement, rank, width) for rank in range(world))


def _cells(placement: Placement, rank: int, width: int) -> int:
    lo, hi = columns_held(placement, rank, width)
    row = ((1 << hi) - 1) ^ ((1 << lo) - 1)
    first = rank // placement.size * placement.size
    return sum(row << run * width for run in range(first, first + placement.size))


def cheapest_edge(src: Placement, dst: Placement, world: int, width: int) -> Cost | None:
    """The cheapest single primitive between two placements, if any does."""
    have, want = cells_held(src, world, width), cells_held(dst, world, width)
    if dst.kind is PlacementKind.PARTIAL:
        return None
    if src.kind is PlacementKind.PARTIAL:
        return min(_reductions(src, have, want, width), default=None)
    if all(not b & ~a for a, b in zip(have, want, strict=True)):
        return FREE
    return min(_exchanges(have, want, world), default=None)


def _reductions(src: Placement, have: Cells, want: Cells, width: int) -> Iterator[Cost]:
    n = src.size
    if all(not b & ~a for a, b in zip(have, want, strict=True)):
        yield (n - 1) * max(cells.bit_count() for cells in want), 1, n, ("reduce_scatter",)
    if have == want:
        # a reduce_scatter to one run each, then an all_gather of the runs
        yield (n - 1) * width + (n - 1) * width, 1, n, ("all_reduce",)


def _exchanges(have: Cells, want: Cells, world: int) -> Iterator[Cost]:
    for n in divisors(world)[1:]:
        for stride in divisors(world // n):
            groups = [[q for q in range(world) if _together(q, rank, n, stride)] for rank in range(world)]
            reach = [_union(have[q] for q in group) for group in groups]
            if any(b & ~a for a, b in zip(reach, want, strict=True)):
                continue
            yield max((b & ~a).bit_count() for a, b in zip(have, want, strict=True)), 1, n, ("all_to_all",)
            if list(want) == reach:
                given = [[have[q].bit_count() for q in group if q != rank] for rank, group in enumerate(groups)]
                yield max(map(sum, given)), 1, n, ("all_gather",)


def _together(a: int, b: int, n: int, stride: int) -> bool:
    return a % stride == b % stride and a // (n * stride) == b // (n * stride)


def _union(many: Iterator[int]) -> int:
    found = 0
    for cells in many:
        found |= cells
    return found


def add(a: Cost, b: Cost) -> Cost:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


class Graph:
    """The primitives between the placements of one world; edges are worked out when they are first asked for."""

    def __init__(self, world: int, width: int) -> None:
        self.world = world
        self.width = width
        self._edges: dict[tuple[Placement, Placement], Cost | None] = {}

    def edge(self, src: Placement, dst: Placement) -> Cost | None:
        if (src, dst) not in self._edges:
            self._edges[src, dst] = cheapest_edge(src, dst, self.world, self.width)
        return self._edges[src, dst]

    def least(self, src: Placement, dst: Placement, between: Iterable[Placement]) -> Cost | None:
        """The least cost from src to dst through any of `between`, None where there is no way."""
        nodes = {placement: at for at, placement in enumerate(dict.fromkeys([src, *between, dst]))}
        heap, done = [(FREE, nodes[src], src)], set[Placement]()
        while heap:
            so_far, _, here = heapq.heappop(heap)
            if here == dst:
                return so_far
            if here in done:
                continue
            done.add(here)
            for there, at in nodes.items():
                more = None if there in done else self.edge(here, there)
                if more is not None:
                    heapq.heappush(heap, (add(so_far, more), at, there))
        return None
