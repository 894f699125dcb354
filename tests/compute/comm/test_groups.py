"""The groups of a layout: every group that a boundary calls on, once, in one order."""

from __future__ import annotations

from weft.compute.comm.groups import distinct_groups
from weft.parallel.layout.boundaries import Boundary, dense_boundaries
from weft.parallel.layout.resolve import resolve


def boundaries_of(tp: int, dp: int, **sizes: int) -> dict[str, Boundary]:
    layout = resolve({"attention.tp": tp, "attention.dp": dp, **{f"{name}.tp": size for name, size in sizes.items()}})
    return dense_boundaries(layout, hidden=16, heads=9, kv_heads=3, head_dim=4, vocab=29)


def test_ranks_alone_need_no_group() -> None:
    assert distinct_groups(boundaries_of(1, 4).values(), 4) == ()


def test_groups_are_all_there_once_in_one_order() -> None:
    found = boundaries_of(2, 4, o_proj=8, dense=4, embedding=2, lm_head=1)
    pairs, fours = [(r, r + 1) for r in (0, 2, 4, 6)], [(0, 1, 2, 3), (4, 5, 6, 7)]
    strided = [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert distinct_groups(found.values(), 8) == tuple(sorted([*pairs, *fours, *strided, tuple(range(8))]))
    for boundary in found.values():
        for step in (step for step in boundary.steps if step.kind != "slice"):
            assert {step.group(rank) for rank in range(8)} <= set(distinct_groups(found.values(), 8))


def test_the_order_does_not_depend_on_the_boundaries() -> None:
    found = list(boundaries_of(2, 3, o_proj=6, dense=3, embedding=1, lm_head=6).values())
    assert distinct_groups(found, 6) == distinct_groups(reversed(found), 6)
