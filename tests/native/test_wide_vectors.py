"""Vectors of 64 bytes where the CPU has none: operations, packing and rounding, by their own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from weft.native.build import find_compiler

ROOT = Path(__file__).resolve().parents[2]
TRIED = (
    "tests/ops",
    "tests/weights",
    *sorted(f"tests/native/{path.name}" for path in Path(__file__).parent.glob("test_step_*.py")),
)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")
def test_what_is_written_for_any_width_holds_at_64_bytes() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.wide_vectors", "-p", "no:cacheprovider", *TRIED]
    wide = {name: word for name, word in os.environ.items() if not name.startswith(("WEFT_", "PYTEST_"))}
    done = subprocess.run(words, cwd=ROOT, env=wide, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 1500
