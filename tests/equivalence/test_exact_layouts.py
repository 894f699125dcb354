"""Every legal dense layout of worlds 1, 2, 3, 4 and 6 gives what one rank gives, bit for bit (exact model).

Of worlds 4 and 6 the short suite takes 107 of 1,267, in which any three modules have every combination of sizes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

import pytest

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    ALONE,
    EXACT,
    MIXED,
    Sizes,
    all_sizes,
    combinations_of,
    covering,
    in_chunks,
    layout_of,
    make_executor,
    run_workload,
    same_bits,
)
from weft.compute.ops.base import Numerics
from weft.parallel.layout.counts import divisors

Models = Callable[[str, Numerics], Model]
Recorder = Callable[[str, object], None]
CHUNK = 32
WORLDS = (1, 2, 3, 4, 6)
PARTS = {(world,): covering(all_sizes(world), 3 if world >= 4 else 5) for world in WORLDS}


def check(model: Model, world: int, layouts: Iterable[Sizes], split: str = "groups") -> None:
    for sizes in layouts:
        found = run_workload(make_executor(model.path, layout_of(world, sizes, split), EXACT), MIXED)
        assert same_bits(found, model.reference), f"world {world}, {sizes} differs from one rank"


@pytest.mark.parametrize(("world", "layouts"), in_chunks(PARTS, CHUNK))
def test_layouts_equal_one_rank(model: Models, world: int, layouts: list[Sizes], record_property: Recorder) -> None:
    check(model("biased", EXACT), world, layouts)
    record_property("layouts_equal", len(layouts))


def test_every_layout_is_a_case() -> None:
    assert sum(len(list(all_sizes(world))) for world in WORLDS) == 1332
    for (world,), (chosen, rest) in PARTS.items():
        assert sorted([*chosen, *rest]) == list(all_sizes(world))
        for axes in itertools.combinations(range(5), 3):
            assert combinations_of(chosen, axes) == set(itertools.product(divisors(world), repeat=3))


@pytest.mark.parametrize("part", range(4))
def test_sample_of_world_8(model: Models, part: int) -> None:
    """Any two modules have every combination of sizes."""
    check(model("biased", EXACT), 8, covering(all_sizes(8), 2)[0][part::4])


@pytest.mark.parametrize("variant", ["tied", "qk_norm"])
@pytest.mark.parametrize("world", [2, 3, 6])
def test_variants(model: Models, variant: str, world: int) -> None:
    check(model(variant, EXACT), world, covering(all_sizes(world), 2)[0])


@pytest.mark.parametrize("world", [2, 3, 4, 6])
def test_balanced_heads(model: Models, world: int) -> None:
    layouts = [sizes for sizes in all_sizes(world) if sizes[0] > 1]
    check(model("biased", EXACT), world, random.Random(world).sample(layouts, min(len(layouts), 8)), "balanced")


def test_the_workload_is_mixed() -> None:
    assert ALONE.budget > max(map(len, ALONE.prompts)) > MIXED.budget
    assert len(set(MIXED.arrivals)) > 1
