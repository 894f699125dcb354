"""Checkpoints and one-rank references of the equivalence suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.equivalence.harness import ALONE, EXACT, of_one_rank
from tests.support.exact_model import write_exact, write_random
from weft.compute.ops.base import Numerics
from weft.tools.verify.record import GreedyOutput

WRITERS: dict[Numerics, Callable[[Path, str], Path]] = {
    EXACT: write_exact,
    Numerics(torch.float64): write_random,
}


@dataclass(frozen=True)
class Model:
    """A checkpoint, how it is computed, and what one rank gives for each request alone, nothing chunked."""

    path: Path
    numerics: Numerics
    reference: list[GreedyOutput]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Numerics], Model]:
    """model(variant, numerics): written and run once per session."""

    @cache
    def make(variant: str, numerics: Numerics) -> Model:
        path = WRITERS[numerics](tmp_path_factory.mktemp(variant), variant)
        return Model(path, numerics, of_one_rank(path, numerics, ALONE))

    return make
