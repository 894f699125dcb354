"""Commands under hard limits that an administrator set: they run, or name the limit with its value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_chat import write_tiny_chat


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny"))


def generate(model: Path, limit: str) -> subprocess.CompletedProcess[str]:
    """`weft generate` in a shell that has set hard limits."""
    words = f"{sys.executable} -m weft generate {model} hello --max-tokens 2 --threads 1 --kv-cache-memory 4MiB"
    return subprocess.run(
        ["bash", "-c", f"{limit}; exec {words}"], capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize("limit", ["ulimit -v 40000000", "ulimit -v 4000000", "ulimit -n 64", "ulimit -c 0"])
def test_a_model_runs_under_limits_that_suffice(limit: str, model: Path) -> None:
    done = generate(model, limit)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("limit", "named"), [("ulimit -v 700000", "ulimit -v 700000"), ("ulimit -n 9", "ulimit -n")])
def test_a_limit_that_is_too_low_is_named(limit: str, named: str, model: Path) -> None:
    done = generate(model, limit)
    assert done.returncode == 78 and named in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "tokenizer" not in done.stderr
