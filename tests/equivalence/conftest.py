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
from weft.launch.lockstep_executor import LockstepExecutor
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

    def one_rank(self) -> LockstepExecutor:
        experts = parse_config(checkpoint_at(self.path).config).num_experts
        return make_executor(self.path, resolve({}, num_experts=experts), self.numerics)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Numerics], Model]:
    """model(variant, numerics): written and run once per session."""

    @cache
    def make(variant: str, numerics: Numerics) -> Model:
        found = Model(WRITERS[numerics](tmp_path_factory.mktemp(variant), variant), numerics, [])
        found.reference.extend(run_workload(found.one_rank(), ALONE))
        return found

    return make
