"""Options of layers: layouts that use each one give what one rank gives, bit for bit; step programs do so in fp64."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain

import pytest
import torch

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    LIMITS,
    MIXED,
    all_sizes,
    checkpoint_at,
    covering,
    largest_difference,
    layout_of,
    make_executor,
    run_workload,
    same_bits,
)
from tests.equivalence.test_exact_context import every_given, legal
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.compute.ops.base import Numerics
from weft.parallel.arch import Shards, parse_config
from weft.parallel.layout.layout import Layout

Models = Callable[[str, Numerics], Model]
OPTIONS = ("rotation", "rotation_one_head")
"""Variants of `tests.support.exact_model` that are there for a layer's option."""
FP64 = Numerics(torch.float64)
PROGRAMS = 6


def layouts(variant: str, case: Model) -> list[Layout]:
    """Of worlds up to 4: any two modules have every combination of sizes; shared contexts and stages."""
    dense = [layout_of(world, sizes) for world in (2, 3, 4) for sizes in covering(all_sizes(world), 2)[0]]
    shared = [legal(variant, given, case) for given in chain.from_iterable(map(every_given, (2, 3, 4)))]
    return [*dense, *(layout for layout in shared if layout is not None)]


@pytest.mark.parametrize("variant", OPTIONS)
def test_options_equal_one_rank(variant: str, model: Models, record_property: Callable[..., None]) -> None:
    case = model(variant, EXACT)
    found = layouts(variant, case)
    assert len(found) >= 30
    for layout in found:
        assert same_bits(run_workload(make_executor(case.path, layout, EXACT), MIXED), case.reference), layout
    record_property("options_equal", len(found))


@pytest.mark.parametrize("variant", OPTIONS)
def test_programs_of_options_equal_one_rank(variant: str, model: Models) -> None:
    need("step", "comm")
    case = model(variant, FP64)
    checkpoint = checkpoint_at(case.path)
    config = parse_config(checkpoint.config)
    for layout in random.Random(variant).sample(layouts(variant, case), PROGRAMS):
        executor = ProgramExecutor(checkpoint, Shards(config, layout), FP64, LIMITS)
        try:
            assert largest_difference(run_workload(executor, MIXED), case.reference) < 1e-9, layout
        finally:
            executor.close()
