"""Random fp64 weights, nothing rounded: every layout of worlds 2, 3, 4 and a sample of 6 within 1e-10, same tokens.

The short suite takes those of world 4 in which any three modules have every combination of sizes, of world 6 any two.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    MIXED,
    Sizes,
    all_sizes,
    covering,
    in_chunks,
    largest_difference,
    layout_of,
    make_executor,
    run_workload,
)
from weft.ops.base import Numerics

FP64 = Numerics(torch.float64)
PARTS = {(world,): covering(all_sizes(world), strength) for world, strength in {2: 5, 3: 5, 4: 3}.items()}
SOME, MORE = covering(all_sizes(6), 2)
PARTS[(6,)] = SOME, random.Random(6).sample(MORE, 48)


@pytest.mark.parametrize(("world", "layouts"), in_chunks(PARTS, 32))
def test_layouts_agree(model: Callable[[str, Numerics], Model], world: int, layouts: list[Sizes]) -> None:
    random_model = model("biased", FP64)
    for sizes in layouts:
        found = run_workload(make_executor(random_model.path, layout_of(world, sizes), FP64), MIXED)
        assert [one.tokens for one in found] == [one.tokens for one in random_model.reference], (world, sizes)
        assert largest_difference(found, random_model.reference) < 1e-10, (world, sizes)
