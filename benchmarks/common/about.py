"""What every saved figure needs beside it: the command, the machine, the versions and the commit."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weft.tools.bench.machine import commit, machine, versions

ROOT = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0))
"""Of the process as it began: later its first thread may keep to one of them."""

VARIANT = "WEFT_NATIVE_ISA"
"""What chooses kernels; where it is set the command says so."""

NOT_MEASURED = ("benchmarks/results", "docs", "tests", "*.md")
"""Files whose changes change no figure: other results, and what is said of them."""


def about() -> dict[str, Any]:
    """Command, time, commit, processor, cores, kernel, Python, torch, compiler, load average."""
    found, packages = machine(), versions()
    return {
        "command": command(f"python {_without_root(str(Path(sys.argv[0]).resolve()))}"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": commit(ROOT, *NOT_MEASURED),
        "cpu": found["cpu"],
        "cores": CORES,
        "kernel": found["system"],
        "python": packages["python"],
        "torch": packages["torch"],
        "compiler": _compiler(),
        "load_average": found["load_average"],
    }


def command(program: str) -> str:
    """What was typed: `program`, then this process's words, and before both the kernels that it is bound to."""
    forced = os.environ.get(VARIANT)
    words = [program] if len(sys.argv) == 1 else [program, shlex.join(map(_without_root, sys.argv[1:]))]
    return " ".join([f"{VARIANT}={forced}", *words] if forced else words)


def _without_root(word: str) -> str:
    """A path in here as it is from here: results do not say where a working copy lies."""
    return word.removeprefix(f"{ROOT}{os.sep}")


def _compiler() -> str | None:
    try:
        done = subprocess.run([os.environ.get("CXX", "g++"), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0]
