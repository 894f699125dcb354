"""Redistribution of real rows, uneven and none, over lockstep ranks, against the definition of the placements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from weft.base.errors import WeftError
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.groups import distinct_groups
from weft.compute.comm.lockstep import LockstepWorld
from weft.compute.comm.redistribute import redistribute
from weft.parallel.layout.boundaries import Boundary
from weft.parallel.layout.placement import Placement, PlacementKind, full, partial, shard
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.splits import assign_heads, even_splits, splits_after
from weft.parallel.layout.transition import Step, received_bytes, transition

WIDTH = 45
"""Columns: 9 heads of 5."""


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def heads_over(tp: int) -> Placement:
    return shard(tuple((share.q[0] * 5, share.q[1] * 5) for share in assign_heads(9, 3, tp)))


def placements(world: int) -> list[Placement]:
    sizes = divisors(world)
    found = [kind(size) for kind in (full, partial) for size in sizes]
    found += [shard(even_splits(WIDTH, size)) for size in sizes]
    found += [shard(splits_after(heads_over(tp).cuts, size)) for tp in sizes[1:] if tp <= 9 for size in sizes]
    return list(dict.fromkeys(found))


def pairs(world: int) -> list[tuple[Placement, Placement]]:
    found = product(placements(world), placements(world))
    return [(src, dst) for src, dst in found if dst.kind is not PlacementKind.PARTIAL or src == dst]


def addends(rows: int, world: int, dtype: torch.dtype) -> Tensor:
    """[world, rows, WIDTH] small whole numbers, so that every sum of them is exact."""
    numbers = torch.Generator().manual_seed(rows)
    return torch.randint(-99, 99, (world, rows, WIDTH), generator=numbers).to(dtype)


def held(placement: Placement, value: Tensor, parts: Tensor, table: RowTable, rank: int) -> Tensor:
    """What a rank holds of `value` [rows, WIDTH]; of a PARTIAL its own of `parts` [world, rows, WIDTH]."""
    first = rank // placement.size * placement.size
    rows = slice(sum(table.rows[:first]), sum(table.rows[: first + placement.size]))
    left, right = placement.cuts[rank - first] if placement.kind is PlacementKind.SHARD else (0, WIDTH)
    return (parts[rank] if placement.kind is PlacementKind.PARTIAL else value)[rows, left:right].clone()


def summed(src: Placement, parts: Tensor, table: RowTable) -> Tensor:
    """The value that a source of `parts` stands for: row by row the sum over the block that holds the row."""
    if src.kind is not PlacementKind.PARTIAL:
        return parts[0]
    blocks = range(0, len(table.rows), src.size)
    rows = [slice(sum(table.rows[:b]), sum(table.rows[: b + src.size])) for b in blocks]
    return torch.cat([parts[b : b + src.size, at].sum(0) for b, at in zip(blocks, rows, strict=True)])


def run(
    steps: tuple[Step, ...], xs: Sequence[Tensor], table: RowTable, wrap: Callable[[Comm], Comm] = lambda comm: comm
) -> list[Tensor]:
    """Every rank's result; xs[r] is rank r's tensor."""
    world = len(table.rows)
    groups = {step.group(rank) for step in steps if step.kind != "slice" for rank in range(world)}
    ranks = [lambda comm, rank=rank: redistribute(xs[rank], steps, table, rank, wrap(comm)) for rank in range(world)]
    return LockstepWorld(world, tuple(sorted(groups))).run(ranks)


def check(src: Placement, dst: Placement, table: RowTable, dtype: torch.dtype = torch.float32) -> None:
    world, rows = len(table.rows), sum(table.rows)
    parts = addends(rows, world, dtype)
    value = summed(src, parts, table)
    xs = [held(src, value, parts, table, rank) for rank in range(world)]
    got = run(transition(src, dst, WIDTH), xs, table)
    for rank in range(world):
        want = held(dst, value, parts, table, rank)
        assert got[rank].dtype == dtype and got[rank].is_contiguous()
        assert got[rank].shape == want.shape and torch.equal(got[rank], want), f"{src} to {dst}, rank {rank}"


ROWS = {
    "uneven": (3, 1, 0, 4, 2, 5, 0, 1, 7, 0, 0, 2),
    "one": (0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    "none": (0,) * 12,
    "even": (2,) * 12,
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_every_pair_with_uneven_rows_and_none(world: int, rows: str) -> None:
    for src, dst in pairs(world):
        check(src, dst, RowTable(ROWS[rows][:world]))


def test_pairs_whose_sizes_do_not_divide_each_other() -> None:
    found = [(src, dst) for src, dst in pairs(12) if src.size % dst.size and dst.size % src.size]
    assert {(src.size, dst.size) for src, dst in found} >= {(4, 6), (6, 4), (2, 3), (3, 4)}
    for src, dst in found:
        check(src, dst, RowTable(ROWS["uneven"]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16, torch.bool])
def test_any_dtype_moves(dtype: torch.dtype) -> None:
    for src, dst in pairs(4):
        if src.kind is not PlacementKind.PARTIAL:
            check(src, dst, RowTable((3, 0, 1, 2)), dtype)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Placement, Placement, RowTable]:
    world = draw(st.sampled_from([2, 4, 6, 8]))
    src, dst = draw(st.sampled_from(pairs(world)))
    return src, dst, RowTable(tuple(draw(st.lists(st.integers(0, 5), min_size=world, max_size=world))))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_any_rows(case: tuple[Placement, Placement, RowTable]) -> None:
    check(*case)


def test_nothing_to_do_copies_nothing() -> None:
    x = torch.ones(3, WIDTH)
    table = RowTable((2, 1))
    assert run((), [x, x], table)[0] is x
    sliced = run(transition(full(2), full(1), WIDTH), [x, x], table)
    assert sliced[1].data_ptr() == x[2:].data_ptr()


def test_a_tensor_may_be_a_view_with_gaps() -> None:
    padded = torch.arange(3.0 * (WIDTH + 2)).view(3, WIDTH + 2)
    xs = [padded[:2, 1:-1], padded[2:, 1:-1]]
    for x in run(transition(full(1), full(2), WIDTH), xs, RowTable((2, 1))):
        assert torch.equal(x, padded[:, 1:-1])


def test_a_tensor_that_is_not_the_placements_is_refused() -> None:
    steps, table = transition(full(1), full(2), WIDTH), RowTable((2, 1))
    with pytest.raises(WeftError, match=r"rank 1 holds rows x columns \(2, 45\), FULL\(1\) means \(1, 45\)"):
        run(steps, [torch.zeros(2, WIDTH), torch.zeros(2, WIDTH)], table)


class Counting(Comm):
    """Passes calls on and counts the bytes that arrive from others."""

    def __init__(self, inner: Comm) -> None:
        self.inner, self.rank, self.world, self.received = inner, inner.rank, inner.world, 0

    def _count(self, tensors: Sequence[Tensor], group: Group) -> None:
        self.received += sum(t.nbytes for t, peer in zip(tensors, group, strict=True) if peer != self.rank)

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        raise AssertionError("its bytes are those of two other calls")

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        self._count(outs, group)
        self.inner.all_gather(x, outs, group)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        self._count([out] * len(group), group)
        self.inner.reduce_scatter(xs, out, group)

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        self._count(outs, group)
        self.inner.all_to_all(xs, outs, group)

    def barrier(self, group: Group) -> None:
        self.inner.barrier(group)

    def send(self, x: Tensor, peer: int) -> None:
        self.inner.send(x, peer)

    def recv(self, out: Tensor, peer: int) -> None:
        self.received += out.nbytes
        self.inner.recv(out, peer)

    def close(self) -> None:
        self.inner.close()


def counter(comms: dict[int, Counting]) -> Callable[[Comm], Comm]:
    """Makes each rank's counter once."""
    return lambda comm: comms.setdefault(comm.rank, Counting(comm))


def test_the_bytes_that_arrive_are_those_that_were_announced() -> None:
    table = RowTable(ROWS["uneven"][:6])
    for src, dst in pairs(6):
        steps = transition(src, dst, WIDTH)
        if any(step.kind == "all_reduce" for step in steps):
            continue
        parts = addends(sum(table.rows), 6, torch.float32)
        value = summed(src, parts, table)
        comms: dict[int, Counting] = {}
        run(
            steps,
            [held(src, value, parts, table, rank) for rank in range(6)],
            table,
            counter(comms),
        )
        for rank in range(6):
            assert comms[rank].received == sum(received_bytes(step, rank, table, 4) for step in steps)


class Dispatched(TorchDispatchMode):
    """Counts torch operations."""

    def __init__(self) -> None:
        self.count = 0
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Silent(Comm):
    """A comm that moves nothing: what is left is the redistribution's own work."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        return x

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        pass

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        pass

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        pass

    def send(self, x: Tensor, peer: int) -> None:
        pass

    def recv(self, out: Tensor, peer: int) -> None:
        pass

    def barrier(self, group: Group) -> None:
        pass

    def close(self) -> None:
        pass


def operations(src: Placement, dst: Placement, rows: int) -> int:
    table = RowTable((rows,) * 4)
    left, right = src.cuts[1] if src.kind is PlacementKind.SHARD else (0, WIDTH)
    x = torch.zeros(rows * src.size, right - left)
    with Dispatched() as dispatched:
        redistribute(x, transition(src, dst, WIDTH), table, 1, Silent(1))
    return int(dispatched.count)


def test_operations_do_not_depend_on_rows() -> None:
    for src, dst in pairs(4):
        assert operations(src, dst, 2) == operations(src, dst, 32)


def test_rows_with_all_columns_arrive_in_place() -> None:
    """No copy for what is contiguous: a buffer, and a view of it per member."""
    assert operations(full(1), full(4), 8) == 1 + 4
    assert operations(full(2), full(4), 8) == 1 + 2
    assert operations(partial(4), full(1), 8) == 2 + 4
    assert operations(partial(4), full(4), 8) == 0


# faults


def swap_first_two(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensors[1], tensors[0], *tensors[2:]]


class Faulty(Counting):
    """A comm with one fault on rank 1."""

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        self.inner.all_gather(x, swap_first_two(outs) if self.rank == 1 else outs, group)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        self.inner.reduce_scatter([torch.zeros_like(x) for x in xs] if self.rank == 1 else xs, out, group)

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        return self.inner.all_reduce(torch.zeros_like(x) if self.rank == 1 else x, group)

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        self.inner.all_to_all(xs, outs, group)
        if self.rank == 1:
            outs[0].copy_(outs[0].flip(0))


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (full(1), full(4)),
        (partial(4), full(1)),
        (partial(4), full(4)),
        (shard(even_splits(WIDTH, 4)), full(1)),
        (full(1), shard(even_splits(WIDTH, 4))),
    ],
    ids=str,
)
def test_swapped_runs_a_missing_addend_or_turned_rows_are_seen(
    src: Placement, dst: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = RowTable((2, 2, 2, 2))
    check(src, dst, table)
    whole = run
    monkeypatch.setitem(globals(), "run", lambda steps, xs, table: whole(steps, xs, table, Faulty))
    with pytest.raises(AssertionError, match="rank"):
        check(src, dst, table)


def test_boundaries_bring_the_groups_that_redistribution_calls_on() -> None:
    """A world built from the boundaries' groups runs their steps; one that lacks a group says so."""
    boundary = Boundary(
        "o_proj.in", heads_over(2), shard(splits_after(heads_over(2).cuts, 6)), WIDTH, "rows", "activation"
    )
    groups = distinct_groups([boundary], 6)
    assert groups == ((0, 2, 4), (1, 3, 5))
    table = RowTable((1, 2, 0, 3, 1, 1))
    parts = addends(8, 6, torch.float32)
    xs = [held(boundary.src, parts[0], parts, table, rank) for rank in range(6)]
    ranks = [lambda comm, rank=rank: redistribute(xs[rank], boundary.steps, table, rank, comm) for rank in range(6)]
    got = LockstepWorld(6, groups).run(ranks)
    for rank in range(6):
        assert torch.equal(got[rank], held(boundary.dst, parts[0], parts, table, rank))
    with pytest.raises(ValueError, match=r"no group \(1, 3, 5\)"):
        LockstepWorld(6, groups[:1]).run(ranks)
