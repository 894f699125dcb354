"""Which rank holds which cell, by definition and by carrying out steps: the answer key of the transition tests.

A cell is (row run, column segment); a segment is a column interval that no cut of the pair divides. A rank's state is
an array [runs, segments] of addend masks: 0 not held, 1 the value itself, or one bit per rank whose addend is in.
Uses of the product only the records: a step's kind, group and pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import lcm

import numpy as np
import numpy.typing as npt

from weft.parallel.layout.layout import Split
from weft.parallel.layout.placement import Interval, Placement, PlacementKind, full, partial, shard
from weft.parallel.layout.splits import assign_heads, even_splits, splits_after
from weft.parallel.layout.transition import RowRange, Step

State = list[npt.NDArray[np.int64]]
Pieces = tuple[RowRange, ...]


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def head_columns(heads: int, kv_heads: int, head_dim: int, tp: int, split: Split = "groups") -> tuple[Interval, ...]:
    shares = assign_heads(heads, kv_heads, tp, split)
    return tuple((share.q[0] * head_dim, share.q[1] * head_dim) for share in shares)


def placements(world: int, heads: int, kv_heads: int, head_dim: int, splits: tuple[Split, ...]) -> list[Placement]:
    """FULL, PARTIAL, and SHARD with even cuts and with those that follow from every attention tp, of every size."""
    sizes = divisors(world)
    found = [full(size) for size in sizes] + [partial(size) for size in sizes]
    found += [shard(even_splits(heads * head_dim, size)) for size in sizes]
    for tp in (tp for tp in sizes if tp <= heads):
        columns = [head_columns(heads, kv_heads, head_dim, tp, split) for split in splits]
        found += [shard(splits_after(cuts, size)) for cuts in columns for size in sizes]
    return list(dict.fromkeys(found))


def segments(width: int, pair: Iterable[Placement]) -> list[Interval]:
    edges = sorted({0, width, *(edge for placement in pair for cut in placement.cuts for edge in cut)})
    return list(pairwise(edges))


def columns_held(placement: Placement, rank: int, width: int) -> Interval:
    return placement.cuts[rank % placement.size] if placement.kind is PlacementKind.SHARD else (0, width)


def by_definition(placement: Placement, world: int, width: int, cells: list[Interval], value: list[int]) -> State:
    """What every rank of the world holds; value[run] is the mask of a finished cell of that run."""
    state = []
    for rank in range(world):
        block = rank // placement.size
        left, right = columns_held(placement, rank, width)
        grid = np.zeros((world, len(cells)), np.int64)
        for run in range(block * placement.size, (block + 1) * placement.size):
            for at, (lo, hi) in enumerate(cells):
                if left <= lo and hi <= right:
                    grid[run, at] = 1 << rank if placement.kind is PlacementKind.PARTIAL else value[run]
        state.append(grid)
    return state


def finished(src: Placement, world: int) -> list[int]:
    """The mask of a finished cell, per run: the value itself, or the addends of the whole block."""
    if src.kind is not PlacementKind.PARTIAL:
        return [1] * world
    blocks = [range(run // src.size * src.size, (run // src.size + 1) * src.size) for run in range(world)]
    return [sum(1 << rank for rank in block) for block in blocks]


def carry_out(steps: tuple[Step, ...], state: State, cells: list[Interval]) -> State:
    """The state after the steps; asserts that no rank gives what it does not have, and that nothing arrives twice."""
    for step in steps:
        taken = [step.received(rank) for rank in range(len(state))]
        check_groups(step, taken)
        state = [_arrived(step, rank, taken[rank], state, cells) for rank in range(len(state))]
    return state


def _arrived(step: Step, rank: int, taken: Pieces, state: State, cells: list[Interval]) -> npt.NDArray[np.int64]:
    index = {lo: at for at, (lo, _) in enumerate(cells)} | {cells[-1][1]: len(cells)}
    grid = np.zeros_like(state[rank])
    summing = step.kind in ("all_reduce", "reduce_scatter")
    for piece in taken:
        assert index.keys() >= set(piece.cols), f"columns {piece.cols} that no placement has"
        area = slice(*piece.rows), slice(index[piece.cols[0]], index[piece.cols[1]])
        given = state[piece.peer][area]
        assert (given != 0).all(), f"rank {piece.peer} gives what it does not hold"
        assert not (grid[area] & given if summing else grid[area]).any(), f"rank {rank} gets a cell twice"
        grid[area] |= given
        if step.kind == "all_gather":
            assert given.size == np.count_nonzero(state[piece.peer]), "an all_gather gives all that a rank holds"
    return grid


def check_groups(step: Step, taken: list[Pieces]) -> None:
    """Groups are `size` ascending ranks `stride` apart, the same for all members; what one gives another takes."""
    world = len(taken)
    for rank in range(world):
        group = step.group(rank)
        assert rank in group and len(group) == step.size and group[-1] < world
        assert all(b - a == step.stride for a, b in pairwise(group))
        assert all(step.group(peer) == group for peer in group)
        assert [piece.peer for piece in taken[rank]] == [q for q in group if q in {p.peer for p in taken[rank]}]
    given = {(rank, p.peer, p.rows, p.cols) for rank in range(world) for p in step.sent(rank)}
    assert given == {(p.peer, rank, p.rows, p.cols) for rank in range(world) for p in taken[rank]}, (
        "what is sent is not what is received"
    )


def check_pair(src: Placement, dst: Placement, world: int, width: int, steps: tuple[Step, ...]) -> None:
    """Asserts that the steps lead from src to dst in a world of this size, as both are defined."""
    cells, value = segments(width, [src, dst, *(step.dst for step in steps)]), finished(src, world)
    got = carry_out(steps, by_definition(src, world, width, cells, value), cells)
    want = by_definition(dst, world, width, cells, value)
    for rank in range(world):
        assert (got[rank] == want[rank]).all(), f"{src} to {dst}: rank {rank} holds {got[rank]}, not {want[rank]}"
    check_records(src, dst, steps)


def check_records(src: Placement, dst: Placement, steps: tuple[Step, ...]) -> None:
    """Steps follow each other, and a PARTIAL is reduced by one call over its whole block, nothing else is."""
    if steps:
        assert (steps[0].src, steps[-1].dst) == (src, dst)
        assert all(before.dst == after.src for before, after in pairwise(steps))
    reductions = [step for step in steps if step.kind in ("all_reduce", "reduce_scatter")]
    if src.kind is PlacementKind.PARTIAL:
        assert reductions == [steps[0]] and (steps[0].size, steps[0].stride) == (src.size, 1)
    else:
        assert not reductions
    assert all(lcm(step.src.size, step.dst.size) % (step.size * step.stride) == 0 for step in steps)


def ordered_pairs(found: list[Placement]) -> Iterator[tuple[Placement, Placement]]:
    """Every pair that has a transition."""
    return ((src, dst) for src in found for dst in found if dst.kind is not PlacementKind.PARTIAL)
