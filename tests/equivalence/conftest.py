"""Checkpoints and references of the equivalence suites."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.equivalence.harness import ALONE, EXACT, Outcome, layout_of, make_executor, run_workload
from tests.support.exact_model import write_exact


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exact(tmp_path_factory.mktemp("exact"), "biased")


@pytest.fixture(scope="session")
def exact_reference(exact: Path) -> list[Outcome]:
    """One rank, each request alone, nothing chunked."""
    return run_workload(make_executor(exact, layout_of(1, (1, 1, 1, 1, 1)), EXACT), ALONE)
