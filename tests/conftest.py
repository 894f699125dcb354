"""The whole suite's seed (printed at the top, given again by WEFT_TEST_SEED) and the counts at its end.

The counts stand here and not beside their tests: the controller of a parallel run loads no other conftest.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from weft.base.machine.memory_trim import keep_all

VARIABLE = "WEFT_TEST_SEED"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Chooses the run's seed; workers of a parallel run inherit it through the environment."""
    _listen_to_ctrl_c()
    # A busy machine is no fault; fixtures that all examples of a test share hold nothing that an example changes.
    ignored = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile("untimed", deadline=None, suppress_health_check=ignored)
    settings.load_profile("untimed")
    seed = os.environ.setdefault(VARIABLE, str(random.SystemRandom().randrange(2**31)))
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = seed


def _listen_to_ctrl_c() -> None:
    """A run in the background of a shell ignores SIGINT, and so would every process that a test starts."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """The line that a person needs to repeat a run."""
    return f"{VARIABLE}={os.environ[VARIABLE]} repeats this run's random choices"


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end: to look for garbage in it takes half a second each time."""
    keep_all()


@pytest.fixture(autouse=True)
def _seeds(request: pytest.FixtureRequest) -> None:
    """Every test starts from its own seed, so that order and neighbours do not matter."""
    seed = zlib.crc32(f"{os.environ[VARIABLE]} {request.node.nodeid}".encode())
    random.seed(seed)
    np.random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


COUNTS = {
    "layouts_equal": "layouts equal one rank bit for bit (lockstep)",
    "expert_layouts_equal": "layouts of models with experts equal one rank bit for bit (lockstep)",
    "process_layouts_equal": "layouts equal one rank bit for bit (processes)",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Adds up what tests recorded under these names."""
    passed = [pair for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    for name, line in COUNTS.items():
        if count := sum(int(value) for key, value in passed if key == name):
            terminalreporter.write_line(f"{count} {line}")
