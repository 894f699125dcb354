"""A compiler that takes too long is ended with all that it has started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import alive, until
from weft.compute.native.build import run_group


def test_a_whole_process_group_is_ended_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child"
    script = f"sleep 600 & echo $! > {child}; wait"
    communicate = subprocess.Popen.communicate

    def after_its_start(process: subprocess.Popen[str], *, timeout: float) -> tuple[str, str]:
        until(lambda: child.exists() and child.read_text().endswith("\n"))
        return communicate(process, timeout=timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", after_its_start)
    with pytest.raises(subprocess.TimeoutExpired):
        run_group(["sh", "-c", script], 0.5)
    until(lambda: not alive(int(child.read_text())))


def test_what_ends_in_time_is_reported() -> None:
    done = run_group([sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"], 60.0)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "2\n", 3)
