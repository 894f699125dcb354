"""`ulimit -v` below what a command takes is one line with what it takes; other errors stay what they are."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from weft.base.errors import ConfigError
from weft.cli import addresses
from weft.cli.dispatch import COMMANDS
from weft.cli.main import main

DATA = str(Path(__file__).parents[1] / "tools" / "explain" / "data")
WORDS = {
    "explain": ["explain", DATA, "--tp", "2"],
    "dry-run": ["dry-run", DATA, "--tp", "2"],
    "translate": ["translate", "--", "vllm", "serve", "m", "-tp", "4"],
    "experts": ["experts", "--help"],
    "generate": ["generate", "--help"],
}


def run_limited(kib: int, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "weft.cli.main", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (kib << 10, kib << 10)),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", [each.name for each in COMMANDS])
def test_below_what_a_command_takes_it_is_refused_in_one_line(name: str) -> None:
    takes = next(each.addresses for each in COMMANDS if each.name == name)
    for kib in (30_000, (takes << 10) - 4):
        assert run_limited(kib, name, "--help") == (
            78,
            f"weft {name}: the limit of addresses (ulimit -v {kib}) is too low: this command takes about {takes} MiB"
            f" (ulimit -v {takes << 10}) before it does anything; raise it\n",
        )


@pytest.mark.parametrize("name", WORDS)
def test_what_it_takes_suffices_for_its_imports(name: str) -> None:
    """Else it is said in a line all the same: libraries for other devices take more than those for the CPU."""
    takes = next(each.addresses for each in COMMANDS if each.name == name)
    code, said = run_limited(takes << 10, *WORDS[name])
    assert code == 0 or (code == 78 and "none are left" in said and said.count("\n") == 1), said


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("No module named 'numpi'"), False),
        (OSError(2, "No such file or directory"), False),
        (ValueError("failed to map segment"), False),
    ],
)
def test_only_what_follows_from_a_limit_is_called_that(
    error: Exception, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_limit", lambda: None)
    assert addresses.explained(error) is None
    monkeypatch.setattr(addresses, "_limit", lambda: 300 << 20)
    found, outer = addresses.explained(error), ImportError("numpy")
    assert (found is not None) == named
    outer.__cause__ = error
    assert (addresses.explained(outer) is not None) == named
    assert found is None or str(found).startswith("the limit of addresses (ulimit -v 307200) is too low: none are left")


def test_an_error_while_importing_ends_with_that_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(name: str) -> None:
        assert os.environ[addresses._BLAS_THREADS] == "1"
        raise ImportError(f"{name}: failed to map segment from shared object")

    monkeypatch.delenv(addresses._BLAS_THREADS, raising=False)
    monkeypatch.setattr(addresses, "_limit", lambda: 300 << 20)
    monkeypatch.setattr("weft.cli.dispatch.import_module", failing)
    assert main(["explain"]) == ConfigError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert addresses._BLAS_THREADS not in os.environ
