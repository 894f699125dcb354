"""Random fp64 weights, nothing rounded: every layout of worlds 2, 3, 4 and a sample of 6 within 1e-10, same tokens; one
operation after the other, and as programs.

The short suite takes those of world 4 in which any three modules have every combination of sizes, of world 6 any two.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
import torch

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    LIMITS,
    LONG,
    MIXED,
    Sizes,
    Workload,
    all_sizes,
    checkpoint_at,
    covering,
    in_chunks,
    largest_difference,
    layout_of,
    make_executor,
    of_one_rank,
    run_workload,
)
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.compute.ops.base import Numerics
from weft.parallel.arch import Shards, parse_config
from weft.tools.verify.record import GreedyOutput

FP64 = Numerics(torch.float64)
PARTS = {(world,): covering(all_sizes(world), strength) for world, strength in {2: 5, 3: 5, 4: 3}.items()}
SOME, MORE = covering(all_sizes(6), 2)
PARTS[(6,)] = SOME, random.Random(6).sample(MORE, 48)


@pytest.mark.parametrize(("world", "layouts"), in_chunks(PARTS, 32))
def test_layouts_agree(model: Callable[[str, Numerics], Model], world: int, layouts: list[Sizes]) -> None:
    random_model = model("biased", FP64)
    for sizes in layouts:
        found = run_workload(make_executor(random_model.path, layout_of(world, sizes), FP64), MIXED)
        _agree(found, random_model.reference, (world, sizes))


PROGRAMS = {(world,): covering(all_sizes(world), strength) for world, strength in {2: 3, 3: 2, 4: 2}.items()}


@pytest.mark.parametrize(("world", "layouts"), in_chunks(PROGRAMS, 16))
def test_programs_of_layouts_agree(model: Callable[[str, Numerics], Model], world: int, layouts: list[Sizes]) -> None:
    """Every rank's steps as programs in C++, at the same time."""
    need("step", "comm")
    random_model = model("biased", FP64)
    for sizes in layouts:
        found = _by_programs(random_model, world, sizes, MIXED)
        _agree(found, random_model.reference, (world, sizes))


@pytest.mark.parametrize(("world", "sizes"), [(2, (2, 2, 2, 2, 2)), (3, (3, 3, 3, 3, 1)), (4, (4, 4, 4, 1, 4))])
def test_programs_of_many_rows_agree(model: Callable[[str, Numerics], Model], world: int, sizes: Sizes) -> None:
    """So many that ranks split sums and norms."""
    need("step", "comm")
    random_model = model("tied", FP64)
    found = _by_programs(random_model, world, sizes, LONG)
    _agree(found, of_one_rank(random_model.path, FP64, LONG), (world, sizes))


def _by_programs(model: Model, world: int, sizes: Sizes, work: Workload) -> list[GreedyOutput]:
    shards = Shards(parse_config(checkpoint_at(model.path).config), layout_of(world, sizes))
    executor = ProgramExecutor(checkpoint_at(model.path), shards, FP64, LIMITS)
    with closing(executor):
        return run_workload(executor, work)


def _agree(found: Sequence[GreedyOutput], wanted: Sequence[GreedyOutput], layout: tuple[int, Sizes]) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in wanted], layout
    assert largest_difference(found, wanted) < 1e-10, layout
