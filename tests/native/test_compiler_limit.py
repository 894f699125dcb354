"""A compiler that takes too long is ended with all that it has started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until
from weft.native.build import run_group


def test_a_whole_process_group_is_ended_at_the_limit(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 600 & echo $! > {child}; wait"
    with pytest.raises(subprocess.TimeoutExpired):
        run_group(["sh", "-c", script], 1.0)
    pid = int(child.read_text())
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_what_ends_in_time_is_reported() -> None:
    done = run_group([sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"], 60.0)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "2\n", 3)
