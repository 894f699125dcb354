"""What is written for AVX-512 and AMX, on any CPU with AVX2: operations, packing and ranks, by their own tests."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.by_hand import LEVELS, ROOT, python_of
from weft.compute.native import isa
from weft.compute.native.build import find_compiler

TRIED = (
    *(
        "tests/compute/ops",
        "tests/compute/sampling",
        "tests/model/weights",
        "tests/compute/comm",
        "tests/base/step",
        "tests/runtime/worker",
        "tests/model/program",
    ),
    *("tests/compute/native/kernels", "tests/compute/native/runtime"),
)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")
@pytest.mark.skipif("avx2" not in isa.runnable(), reason="this CPU has no AVX2, which the instructions are made of")
@pytest.mark.parametrize("variant", LEVELS)
def test_code_for_other_cpus_holds(variant: str, tmp_path: Path) -> None:
    own = {name: word for name, word in os.environ.items() if not name.startswith(("WEFT_", "PYTEST_", "PYTHONPATH"))}

    def run(*words: str) -> str:
        done = subprocess.run((python, *words), cwd=ROOT, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        return done.stdout

    python = str(python_of(variant, tmp_path))
    # minutes, more than a test may take, and beside other work more than a person's build
    imports = "from weft.compute.native import build, libraries"
    run("-c", f"{imports}; build.MOST_SECONDS = 1500; build.ensure_built(libraries.needed())")
    assert run("-c", "from weft.compute.native import libraries; print(libraries.kernels())").strip() == variant
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *TRIED)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed[1]) > 2000
