"""Random fp64 weights, nothing rounded: every layout of worlds 2, 3, 4 and a sample of 6 within 1e-10, same tokens."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from tests.equivalence.conftest import Model
from tests.equivalence.harness import MIXED, all_sizes, largest_difference, layout_of, make_executor, run_workload
from weft.ops.base import Numerics

FP64 = Numerics(torch.float64)
CASES = [(2, 0), (3, 0), *((4, first) for first in range(0, 243, 81)), *((6, first) for first in range(0, 1024, 256))]


@pytest.mark.parametrize(("world", "first"), CASES)
def test_layouts_agree(model: Callable[[str, Numerics], Model], world: int, first: int) -> None:
    random_model = model("biased", FP64)
    layouts = list(all_sizes(world))[first : first + 256 if world == 6 else first + 81]
    for sizes in random.Random(first).sample(layouts, 12) if world == 6 else layouts:
        found = run_workload(make_executor(random_model.path, layout_of(world, sizes), FP64), MIXED)
        assert [one.tokens for one in found] == [one.tokens for one in random_model.reference], (world, sizes)
        assert largest_difference(found, random_model.reference) < 1e-10, (world, sizes)
