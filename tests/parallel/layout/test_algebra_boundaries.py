"""Boundaries: what modules take and give, for every combination of module sizes in small worlds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from tests.parallel.layout.algebra_ownership import check_pair, divisors
from weft.parallel.layout.boundaries import SAMPLED_COLUMNS, Boundary, dense_boundaries, module_placements, residual
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import PlacementKind, full, partial, shard
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.splits import even_splits, splits_after

MODULES = ("o_proj.tp", "dense.tp", "embedding.tp", "lm_head.tp")
NAMES = (
    "embedding.in embedding.out attention.in o_proj.in o_proj.out dense.in dense.out head.in lm_head.in lm_head.out "
    "sampling.out"
).split()


def layout_of(world: int, tp: int, *sizes: int) -> Layout:
    return resolve({"attention.tp": tp, "attention.dp": world // tp, **dict(zip(MODULES, sizes, strict=True))})


def boundaries_of(layout: Layout) -> dict[str, Boundary]:
    return dense_boundaries(layout, hidden=16, heads=9, kv_heads=3, head_dim=4, vocab=29)


def layouts(world: int) -> Iterator[Layout]:
    """Every dense layout of a world."""
    return (layout_of(world, *sizes) for sizes in product(divisors(world), repeat=5))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_every_layout_is_a_chain_that_arrives(world: int) -> None:
    seen = set()
    assert len(list(layouts(world))) == len(divisors(world)) ** 5
    for layout in layouts(world):
        found = boundaries_of(layout)
        stream, t = residual(layout), layout.attention.tp
        assert list(found) == NAMES == [boundary.name for boundary in found.values()]
        assert found["embedding.in"].src == found["sampling.out"].dst == full(t)
        for name in ("embedding.out", "o_proj.out", "dense.out"):
            assert found[name].dst == stream
        for name in ("attention.in", "dense.in", "head.in"):
            assert found[name].src == stream
        assert found["lm_head.out"].dst == found["sampling.out"].src == found["lm_head.in"].src == full(1)
        seen |= {(b.src, b.dst, b.width) for b in found.values()}
        assert all(b.steps for b in found.values() if b.src != b.dst)
    for src, dst, width in seen:
        steps = Boundary("", src, dst, width, "rows", "activation").steps
        check_pair(src, dst, world, width, steps)


@pytest.mark.parametrize("world", [1, 2, 4, 6])
def test_residual_is_whole_only_where_both_sums_have_attentions_size(world: int) -> None:
    for layout in layouts(world):
        t = layout.attention.tp
        same = layout.o_proj.tp == t and layout.dense.tp == t
        assert residual(layout) == (full(t) if same else full(1))


@pytest.mark.parametrize("world", [2, 4, 6])
def test_a_module_alone_takes_the_residual_as_it_is(world: int) -> None:
    for layout in layouts(world):
        stream = residual(layout)
        found = module_placements(layout, heads=9, kv_heads=3, head_dim=4, vocab=29)
        for name, size in (
            ("embedding", layout.embedding.tp),
            ("o_proj", layout.o_proj.tp),
            ("dense", layout.dense.tp),
        ):
            if size == 1:
                assert (found[name].takes, found[name].gives) == (stream, stream)
            else:
                assert found[name].takes.size == size and found[name].gives == partial(size)
        assert found["lm_head"].takes == full(layout.lm_head.tp)
        assert found["lm_head"].gives == shard(even_splits(29, layout.lm_head.tp))


def test_o_proj_takes_columns_that_follow_from_the_heads() -> None:
    """9 heads of 4 columns in 3 KV groups over 2 ranks: 24 and 12 columns."""
    columns = ((0, 24), (24, 36))
    for size in (2, 3, 6):
        found = boundaries_of(layout_of(6, 2, size, 2, 1, 1))
        assert found["o_proj.in"].src == shard(columns)
        assert found["o_proj.in"].dst == shard(splits_after(columns, size))


def test_widths_rows_and_items() -> None:
    found = boundaries_of(layout_of(4, 2, 4, 2, 4, 2))
    assert {name: b.width for name, b in found.items()} == dict(
        zip(NAMES, [1, *[16] * 2, 36, *[16] * 5, 29, SAMPLED_COLUMNS], strict=True)
    )
    sampled = {"head.in", "lm_head.in", "lm_head.out", "sampling.out"}
    assert {name for name, b in found.items() if b.rows == "sampled"} == sampled
    assert {name for name, b in found.items() if b.item == "id"} == {"embedding.in", "sampling.out"}
    assert {name for name, b in found.items() if b.item == "logit"} == {"lm_head.out"}


def collectives(layout: Layout) -> dict[str, list[str]]:
    found = {
        name: [str(step.kind) for step in b.steps if step.kind != "slice"] for name, b in boundaries_of(layout).items()
    }
    return {name: kinds for name, kinds in found.items() if kinds}


def test_a_uniform_layout_has_one_all_reduce_per_half_layer() -> None:
    assert collectives(layout_of(2, 2, 2, 2, 2, 2)) == {
        "embedding.out": ["all_reduce"],
        "o_proj.out": ["all_reduce"],
        "dense.out": ["all_reduce"],
        "lm_head.in": ["all_gather"],
        "lm_head.out": ["all_to_all"],
        "sampling.out": ["all_gather"],
    }


def test_data_parallel_attention_with_shared_modules() -> None:
    """attention dp 4, all else over 4 ranks: gather before, scatter after every module."""
    assert collectives(layout_of(4, 1, 4, 4, 4, 4)) == {
        "embedding.in": ["all_gather"],
        "embedding.out": ["reduce_scatter"],
        "o_proj.in": ["all_to_all"],
        "o_proj.out": ["reduce_scatter"],
        "dense.in": ["all_gather"],
        "dense.out": ["reduce_scatter"],
        "lm_head.in": ["all_gather"],
        "lm_head.out": ["all_to_all"],
    }


def test_ranks_alone_need_no_collective() -> None:
    assert collectives(layout_of(4, 1, 1, 1, 1, 1)) == {}


def test_sums_are_added_in_groups_of_their_own_block() -> None:
    for layout in layouts(6):
        for boundary in boundaries_of(layout).values():
            if boundary.src.kind is PlacementKind.PARTIAL:
                assert boundary.steps[0].group(0) == tuple(range(boundary.src.size))
