"""Checkpoints and one-rank references of the equivalence suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.equivalence.harness import ALONE, EXACT, Outcome, layout_of, make_executor, run_workload
from tests.support.exact_model import write_exact, write_random
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
        alone = make_executor(path, layout_of(1, (1, 1, 1, 1, 1)), numerics)
        return Model(path, numerics, run_workload(alone, ALONE))

    return make


LINES = {
    "layouts_equal": "layouts equal one rank bit for bit (lockstep)",
    "process_layouts_equal": "layouts equal one rank bit for bit (processes)",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many layouts were compared."""
    passed = [pair for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    for name, line in LINES.items():
        if count := sum(int(value) for key, value in passed if key == name):
            terminalreporter.write_line(f"{count} {line}")
