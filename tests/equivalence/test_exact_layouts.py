"""Every legal dense layout of worlds 1, 2, 3, 4 and 6 gives what one rank gives, bit for bit (exact model)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.equivalence.harness import (
    ALONE,
    EXACT,
    MIXED,
    Outcome,
    Sizes,
    all_sizes,
    layout_of,
    make_executor,
    run_workload,
    same_bits,
)

CHUNK = 32
CASES = [
    pytest.param(world, first, id=f"world{world}-{first}")
    for world in (1, 2, 3, 4, 6)
    for first in range(0, len(list(all_sizes(world))), CHUNK)
]


def check(path: Path, world: int, sizes: Sizes, reference: list[Outcome], split: str = "groups") -> None:
    found = run_workload(make_executor(path, layout_of(world, sizes, split), EXACT), MIXED)
    assert same_bits(found, reference), f"world {world}, {sizes} differs from one rank"


@pytest.mark.parametrize(("world", "first"), CASES)
def test_layouts_equal_one_rank(
    world: int, first: int, exact: Path, exact_reference: list[Outcome], record_property: pytest.FixtureRequest
) -> None:
    layouts = list(all_sizes(world))[first : first + CHUNK]
    for sizes in layouts:
        check(exact, world, sizes, exact_reference)
    record_property("layouts_equal", len(layouts))  # type: ignore[operator]


def test_every_layout_is_a_case() -> None:
    assert sum(len(list(all_sizes(world))) for world in (1, 2, 3, 4, 6)) == 1332


@pytest.mark.parametrize("part", range(4))
def test_sample_of_world_8(part: int, exact: Path, exact_reference: list[Outcome]) -> None:
    sample = random.Random(8).sample(list(all_sizes(8)), 24)
    for sizes in sample[part * 6 : part * 6 + 6]:
        check(exact, 8, sizes, exact_reference)


def test_balanced_heads(exact: Path, exact_reference: list[Outcome]) -> None:
    for sizes in ((2, 2, 2, 2, 2), (2, 4, 1, 2, 4), (4, 2, 4, 1, 2), (4, 4, 4, 4, 4)):
        check(exact, 4, sizes, exact_reference, split="balanced")


def test_one_rank_alone_chunked_and_batched(exact: Path, exact_reference: list[Outcome]) -> None:
    found = run_workload(make_executor(exact, layout_of(1, (1, 1, 1, 1, 1)), EXACT), MIXED)
    assert same_bits(found, exact_reference)
    assert ALONE.budget > sum(map(len, ALONE.prompts))
