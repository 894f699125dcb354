"""Checkpoints and one-rank references of the equivalence suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.equivalence.harness import ALONE, EXACT, Outcome, checkpoint_at, make_executor, run_workload
from tests.support.exact_model import write_exact, write_random
from weft.arch import parse_config
from weft.layout.resolve import resolve
from weft.ops.base import Numerics

WRITERS: dict[Numerics, Callable[[Path, str], Path]] = {
    EXACT: write_exact,
    Numerics(torch.float64): write_random,
}


@dataclass(frozen=True)
class Model:
    """A checkpoint, how it is computed, and what one rank gives for each request alone, nothing chunked."""

    path: Path
    numerics: Numerics
    reference: list[Outcome]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Numerics], Model]:
    """model(variant, numerics): written and run once per session."""

    @cache
    def make(variant: str, numerics: Numerics) -> Model:
        path = WRITERS[numerics](tmp_path_factory.mktemp(variant), variant)
        experts = parse_config(checkpoint_at(path).config).num_experts
        alone = make_executor(path, resolve({}, num_experts=experts), numerics)
        return Model(path, numerics, run_workload(alone, ALONE))

    return make
