"""Cases of the conformance test: one record says what every rank of a group must call, send and receive.

The expected values are worked out here element by element, in plain loops over the members, by nothing of
weft.compute.comm.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.comm.base import Comm

Group = tuple[int, ...]
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Case:
    """`rows[i][j]`: rows that member i has for member j (all_to_all); elsewhere only rows[0] counts, one per member."""

    kind: str
    group: Group
    dtype: torch.dtype
    rows: tuple[tuple[int, ...], ...]
    width: int
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} {self.group} {self.dtype} rows {self.rows} width {self.width} seed {self.seed}"


def groups_of(world: int) -> tuple[Group, ...]:
    """Every group of two or more ranks: neighbours, strided, with gaps."""
    ranks = range(world)
    return tuple(sorted(group for n in range(2, world + 1) for group in itertools.combinations(ranks, n)))


def systematic(world: int) -> list[Case]:
    """Every kind, dtype and group with even, uneven, partly zero and all-zero rows."""
    cases = []
    for seed, (kind, dtype, group) in enumerate(itertools.product(KINDS, DTYPES, groups_of(world))):
        for shape in ("even", "uneven", "some zero", "all zero"):
            cases.append(Case(kind, group, dtype, _rows(shape, len(group), seed), 1 + seed % 7, seed))
    return cases


def drawn(world: int, count: int, seed: int, most_rows: int) -> list[Case]:
    """Random cases; rows up to `most_rows`."""
    draw = random.Random(seed)
    cases = []
    for number in range(count):
        group = draw.choice(groups_of(world))
        limit = draw.choice((1, 5, most_rows))
        rows = tuple(tuple(draw.randint(0, limit) for _ in group) for _ in group)
        cases.append(Case(draw.choice(KINDS), group, draw.choice(DTYPES), rows, draw.randint(1, 33), number))
    return cases


def check(comm: Comm, case: Case) -> str:
    """Runs the case on this rank's comm; what is wrong, or ''. Ranks outside the group take no part."""
    if comm.rank not in case.group:
        return ""
    me = case.group.index(comm.rank)
    got = _call(comm, case, me)
    wanted = _expected(case, me)
    wrong = [i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if not _identical(a, b)]
    return f"{case}: rank {comm.rank}: parts {wrong} differ" if wrong else ""


def _call(comm: Comm, case: Case, me: int) -> list[Tensor]:
    n = len(case.group)
    if case.kind == "barrier":
        comm.barrier(case.group)
        return []
    if case.kind == "all_reduce":
        return [comm.all_reduce(_data(case, me, 0, case.rows[0][0]), case.group)]
    if case.kind == "all_gather":
        outs = _views(case, [case.rows[0][i] for i in range(n)])
        comm.all_gather(_data(case, me, 0, case.rows[0][me]), outs, case.group)
        return outs
    if case.kind == "reduce_scatter":
        (out,) = _views(case, [case.rows[0][me]])
        comm.reduce_scatter([_data(case, me, i, case.rows[0][i]) for i in range(n)], out, case.group)
        return [out]
    outs = _views(case, [case.rows[i][me] for i in range(n)])
    comm.all_to_all([_data(case, me, i, case.rows[me][i]) for i in range(n)], outs, case.group)
    return outs


def _expected(case: Case, me: int) -> list[Tensor]:
    members = range(len(case.group))
    if case.kind == "barrier":
        return []
    if case.kind == "all_reduce":
        return [plain_sum([_data(case, i, 0, case.rows[0][0]) for i in members])]
    if case.kind == "all_gather":
        return [_data(case, i, 0, case.rows[0][i]) for i in members]
    if case.kind == "reduce_scatter":
        return [plain_sum([_data(case, i, me, case.rows[0][me]) for i in members])]
    return [_data(case, i, me, case.rows[i][me]) for i in members]


def plain_sum(xs: list[Tensor]) -> Tensor:
    """((x0 + x1) + x2) + ..., half types in fp32 and rounded once."""
    half = xs[0].dtype in (torch.float16, torch.bfloat16)
    total = xs[0].to(torch.float32) if half else xs[0].clone()
    for x in xs[1:]:
        total = total + (x.to(torch.float32) if half else x)
    return total.to(xs[0].dtype)


def _data(case: Case, member: int, part: int, rows: int) -> Tensor:
    """What `member` has as its `part`: small numbers among large ones that may cancel, so that order shows."""
    generator = torch.Generator().manual_seed((case.seed * 64 + member) * 64 + part)
    shape = (rows, case.width)
    if not case.dtype.is_floating_point:
        bits = 31 if case.dtype == torch.int32 else 62
        return torch.randint(-(2**bits), 2**bits, shape, generator=generator, dtype=case.dtype)
    large = 2.0 ** (40 if case.dtype == torch.float64 else 15 if case.dtype == torch.float16 else 22)
    sign = torch.randint(-2, 3, shape, generator=generator).double() / 2
    small = torch.randn(shape, generator=generator, dtype=torch.float64) / 16
    return torch.where(sign.abs() == 1, sign * large, small).to(case.dtype)


def _views(case: Case, rows: list[int]) -> list[Tensor]:
    """Places to receive: views into one larger tensor, filled with what must be overwritten."""
    whole = torch.full((sum(rows), case.width), 77, dtype=case.dtype)
    return list(whole.split(rows))


def _identical(a: Tensor, b: Tensor) -> bool:
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _rows(shape: str, members: int, seed: int) -> tuple[tuple[int, ...], ...]:
    draw = random.Random(seed)
    if shape == "even":
        return ((3,) * members,) * members
    if shape == "all zero":
        return ((0,) * members,) * members
    low = 1 if shape == "uneven" else 0
    rows = [[draw.randint(low, 9) for _ in range(members)] for _ in range(members)]
    if shape == "some zero":
        for row in rows:
            row[draw.randrange(members)] = 0
    return tuple(tuple(row) for row in rows)
