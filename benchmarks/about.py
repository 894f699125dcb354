"""What every saved figure needs beside it: the command, the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weft.bench.machine import commit, versions

CORES = len(os.sched_getaffinity(0))
"""Of the process as it began: later its first thread may keep to one of them."""


def about() -> dict[str, Any]:
    """Command, time, commit, processor, cores, kernel, Python, torch, compiler, load average."""
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": commit(Path(__file__).parent),
        "cpu": _cpu(),
        "cores": CORES,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": versions()["torch"],
        "compiler": _compiler(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _compiler() -> str | None:
    try:
        done = subprocess.run([os.environ.get("CXX", "g++"), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0]
