"""The collectives between two placements: what moves, in which groups, as cheaply as possible.

`transition` is the one place that decides a collective; it is pure and works from sizes, so it is decided once per
layout and costs the same in every world. Only lcm(src.size, dst.size) consecutive ranks matter: the pattern repeats.

Primitives: `slice` (free, local), `all_gather` (every rank gives all it holds to every rank of its group),
`all_to_all` (a rectangle, row runs x columns, from any rank of the group to any other), `reduce_scatter` (every rank
gets the ordered sum of one rectangle) and `all_reduce`. Groups are strided: `size` ranks, `stride` apart.

Cheapest means, in this order: the most columns that a rank receives at one row per rank, added over the calls (an
all_reduce counts as reduce_scatter + all_gather); number of calls; group sizes, added over the calls; names of kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from math import gcd, lcm
from typing import Literal

from weft.base.errors import LayoutError
from weft.parallel.layout.placement import Interval, Placement, PlacementKind, full, shard
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.splits import even_splits, splits_after

StepKind = Literal["slice", "all_gather", "all_to_all", "reduce_scatter", "all_reduce"]
Rectangle = tuple[Interval, Interval]
"""(row runs, columns)."""
Cost = tuple[int, int, int, tuple[str, ...]]
"""(columns received, calls, group sizes, kinds): compared in this order."""


def held(placement: Placement, rank: int, width: int) -> Rectangle:
    """The rectangle that a rank holds: the runs of its block, and its columns of `width`."""
    lo = rank - rank % placement.size
    columns = placement.cuts[rank - lo] if placement.kind is PlacementKind.SHARD else (0, width)
    return (lo, lo + placement.size), columns


def _overlap(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _area(rectangle: Rectangle) -> int:
    (r0, r1), (c0, c1) = rectangle
    return max(0, r1 - r0) * max(0, c1 - c0)


@dataclass(frozen=True, slots=True)
class RowRange:
    """A rectangle that goes between this rank and `peer`: row runs of the stage x columns of the whole width."""

    peer: int
    rows: Interval
    cols: Interval


@dataclass(frozen=True, slots=True)
class Step:
    """One primitive that takes every rank from `src` to `dst`, in groups of `size` ranks, `stride` apart."""

    kind: StepKind
    size: int
    stride: int
    src: Placement
    dst: Placement
    width: int
    # a step is a key of caches that are read several times per layer
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = (self.kind, self.size, self.stride, self.src, self.dst, self.width)
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash

    def group(self, rank: int) -> tuple[int, ...]:
        """The ascending ranks that this rank shares the call with."""
        base = self._base(rank)
        return tuple(range(base, base + self.size * self.stride, self.stride))

    def groups(self, ranks: int) -> tuple[tuple[int, ...], ...]:
        """The distinct groups of ranks 0 to `ranks`, in the order of their first ranks."""
        return tuple(self.group(rank) for rank in range(ranks) if self._base(rank) == rank)

    def received(self, rank: int) -> tuple[RowRange, ...]:
        """Pieces that this rank gets, its own included, in group order; a reduction's pieces are its addends."""
        return self._pieces([(peer, peer, rank) for peer in self.group(rank)])

    def sent(self, rank: int) -> tuple[RowRange, ...]:
        """Pieces that this rank gives, its own included, in group order; `peer` receives it."""
        return self._pieces([(peer, rank, peer) for peer in self.group(rank)])

    def _pieces(self, pairs: list[tuple[int, int, int]]) -> tuple[RowRange, ...]:
        found = ((peer, self._moved(holder, taker)) for peer, holder, taker in pairs)
        return tuple(RowRange(peer, *moved) for peer, moved in found if _area(moved))

    def _base(self, rank: int) -> int:
        return rank - rank // self.stride % self.size * self.stride

    def _moved(self, holder: int, taker: int) -> Rectangle:
        """What goes from holder to taker; of several copies one holder gives (see `_chosen`)."""
        wanted = held(self.dst, taker, self.width)
        if self.src.kind is PlacementKind.PARTIAL:
            return wanted
        rows, cols = held(self.src, holder, self.width)
        if self.src.kind is PlacementKind.FULL and holder != self._chosen(rows, taker):
            return (0, 0), (0, 0)
        return _overlap(rows, wanted[0]), _overlap(cols, wanted[1])

    def _chosen(self, block: Interval, taker: int) -> int:
        """The rank of a FULL block that gives to taker: itself, else its group's members there take turns."""
        if block[0] <= taker < block[1]:
            return taker
        base = self._base(taker)
        first = max(0, -((base - block[0]) // self.stride))
        last = min(self.size, -((base - block[1]) // self.stride))
        return base + (first + (taker - base) // self.stride % (last - first)) * self.stride


def received_bytes(step: Step, rank: int, table: RowTable, itemsize: int) -> int:
    """Bytes that this rank receives from others in one call, exact for the table's rows.

    all_gather, all_to_all: the others' pieces, which together with its own are all that it is to hold.
    reduce_scatter over n ranks: n - 1 addends of its own piece. all_reduce over a block: n - 1 addends of its own run,
    then the other runs of the block. So the time that this takes does not depend on the size of the group.
    """
    if step.kind == "slice":
        return 0
    if step.kind == "all_reduce":
        (lo, hi), _ = held(step.src, rank, step.width)
        own = table.count(rank, rank + 1)
        return ((step.size - 1) * own + table.count(lo, hi) - own) * step.width * itemsize
    wanted = _elements(held(step.dst, rank, step.width), table)
    if step.kind == "reduce_scatter":
        return (step.size - 1) * wanted * itemsize
    rows, cols = held(step.src, rank, step.width)
    there = held(step.dst, rank, step.width)
    return (wanted - _elements((_overlap(rows, there[0]), _overlap(cols, there[1])), table)) * itemsize


def _elements(rectangle: Rectangle, table: RowTable) -> int:
    rows, cols = rectangle
    return table.count(*rows) * (cols[1] - cols[0]) if rows[0] < rows[1] and cols[0] < cols[1] else 0


def most_received(step: Step) -> int:
    """The most columns that any rank receives from others in one call, at one row per rank."""
    if step.kind == "slice":
        return 0
    if step.kind == "all_reduce":
        return 2 * (step.size - 1) * step.width
    if step.kind == "reduce_scatter":
        return (step.size - 1) * max(_area(held(step.dst, rank, step.width)) for rank in range(step.dst.size))
    if step.src.kind is step.dst.kind is PlacementKind.FULL:
        return (step.dst.size - step.src.size) * step.width
    return max(_missing(step, rank) for rank in range(lcm(step.src.size, step.dst.size)))


def _missing(step: Step, rank: int) -> int:
    rows, cols = held(step.src, rank, step.width)
    wanted = held(step.dst, rank, step.width)
    return _area(wanted) - _area((_overlap(rows, wanted[0]), _overlap(cols, wanted[1])))


def cost(steps: tuple[Step, ...]) -> Cost:
    """What `transition` minimises; slices are free."""
    calls = [step for step in steps if step.kind != "slice"]
    kinds = tuple(step.kind for step in calls)
    return sum(map(most_received, calls)), len(calls), sum(step.size for step in calls), kinds


@cache
def transition(src: Placement, dst: Placement, width: int) -> tuple[Step, ...]:
    """The cheapest steps from src to dst for rows of `width` columns; none where they are equal.

    A PARTIAL is reduced first, by one call over its whole block. LayoutError for anything to PARTIAL, for cuts that do
    not tile the width and for a rank without a column.
    """
    _check_cuts(src, width)
    _check_cuts(dst, width)
    if src == dst:
        return ()
    if dst.kind is PlacementKind.PARTIAL:
        raise LayoutError(f"no transition leads to a sum that is still to be added up: {src} to {dst}", value=str(dst))
    if src.kind is PlacementKind.PARTIAL:
        return min(_reductions(src, dst, width), key=cost)
    return _move(src, dst, width)


def _check_cuts(placement: Placement, width: int) -> None:
    if placement.kind is not PlacementKind.SHARD:
        return
    cuts = placement.cuts
    if width < placement.size or any(lo >= hi for lo, hi in cuts):
        raise LayoutError(f"{placement}: a rank would hold none of {width} columns; cuts {cuts}", value=cuts)
    edges = [0, *(edge for cut in sorted(cuts) for edge in cut), width]
    if len(cuts) != placement.size or edges[::2] != edges[1::2]:
        raise LayoutError(f"{placement}: cuts {cuts} do not tile {width} columns", value=cuts)


def _reductions(src: Placement, dst: Placement, width: int) -> Iterator[tuple[Step, ...]]:
    """Every way worth a look: the sum lands in a placement of the source's block, and is moved from there.

    Scattered or whole; on the way to a SHARD also in columns that have to do with the destination's, or in even ones.
    """
    n = src.size
    for via in _landings(n, dst, width):
        kind: StepKind = "all_reduce" if via == full(n) else "reduce_scatter"
        yield Step(kind, n, 1, src, via, width), *_move(via, dst, width)


def _landings(n: int, dst: Placement, width: int) -> Iterator[Placement]:
    yield full(1)
    yield full(n)
    if dst.kind is PlacementKind.SHARD:
        for size in _divisors(n)[1:]:
            for cuts in (splits_after(dst.cuts, size), _gathered(dst.cuts, size)):
                yield from (shard(cuts), shard(_evened(cuts)))


def _gathered(cuts: tuple[Interval, ...], k: int) -> tuple[Interval, ...]:
    """Cuts of k ranks whose position i has what positions i, i + k, .. have together; even cuts where that has gaps."""
    parts = [sorted(cuts[i::k]) for i in range(k)]
    if len(cuts) % k or not all(before[1] == after[0] for part in parts for before, after in pairwise(part)):
        return even_splits(max(hi for _, hi in cuts), k)
    return tuple((part[0][0], part[-1][1]) for part in parts)


def _evened(cuts: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """Even cuts in the same order."""
    order = {p: at for at, p in enumerate(sorted(range(len(cuts)), key=cuts.__getitem__))}
    even = even_splits(max(hi for _, hi in cuts), len(cuts))
    return tuple(even[order[p]] for p in range(len(cuts)))


def _move(src: Placement, dst: Placement, width: int) -> tuple[Step, ...]:
    """From FULL or SHARD to FULL or SHARD: at most one call, in which every rank receives just what it lacks."""
    if src == dst:
        return ()
    common = gcd(src.size, dst.size)
    if src.kind is PlacementKind.FULL and common == dst.size:
        return (Step("slice", 1, 1, src, dst, width),)
    if src.kind is dst.kind is PlacementKind.FULL:
        via = full(common)
        return *_move(src, via, width), Step("all_gather", dst.size // common, common, via, dst, width)
    if src.kind is PlacementKind.FULL:
        return (Step("all_to_all", dst.size // common, common, src, dst, width),)
    if dst.kind is PlacementKind.FULL:
        kind: StepKind = "all_gather" if common == src.size else "all_to_all"
        return (Step(kind, lcm(src.size, dst.size), 1, src, dst, width),)
    return (Step("all_to_all", *_smallest_group(src, dst), src, dst, width),)


def _smallest_group(src: Placement, dst: Placement) -> tuple[int, int]:
    """(size, stride) of the smallest groups that hold every giver of a column with its takers.

    Between blocks of different size, takers and givers chain through the whole lcm block, so only the stride is free.
    """
    pairs = _shared_columns(src.cuts, dst.cuts)
    apart = gcd(*(giver - taker for giver, taker in pairs))
    if src.size == dst.size:
        blocks = [block for block in _divisors(src.size) if all(p // block == j // block for p, j in pairs)]
        return min((block // gcd(block, apart), gcd(block, apart)) for block in blocks)
    if src.size % dst.size:
        apart = gcd(apart, src.size)
    if dst.size % src.size:
        apart = gcd(apart, dst.size)
    block = lcm(src.size, dst.size)
    return block // gcd(block, apart), gcd(block, apart)


def _shared_columns(src_cuts: tuple[Interval, ...], dst_cuts: tuple[Interval, ...]) -> list[tuple[int, int]]:
    """(position in src, position in dst) wherever their columns overlap; both tile the width."""
    givers = sorted((cut, p) for p, cut in enumerate(src_cuts) if cut[0] < cut[1])
    takers = sorted((cut, j) for j, cut in enumerate(dst_cuts) if cut[0] < cut[1])
    pairs, g, t = [], 0, 0
    while g < len(givers) and t < len(takers):
        pairs.append((givers[g][1], takers[t][1]))
        giver_ends, taker_ends = givers[g][0][1], takers[t][0][1]
        g += giver_ends <= taker_ends
        t += taker_ends <= giver_ends
    return pairs


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
