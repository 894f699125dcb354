"""The state of the machine's memory, asked beside every figure: a small C++ program that sleeps between questions."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Self

from benchmarks.peers.install import NotInstalled
from benchmarks.peers.places import HERE

FAR_US = 0.12
"""One way of a flag between two cores of one die takes about 0.05 us, between two dies about 0.25 us; two dies have two
links to memory, so that the slow flag goes with the fast memory."""

SETTLED_S = 0.3
"""By then an engine's processes have ended what follows its answer: a probe that shares the cores with them finds
half the machine."""

State = dict[str, float]
"""gb_per_s, flag_us, gflop_per_s."""


class Probe:
    """The running program; `ask` takes about 60 ms."""

    def __init__(self, cache: Path) -> None:
        self._process = subprocess.Popen(
            [str(build(cache))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self) -> State:
        """What the machine gives now."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        return dict(json.loads(self._process.stdout.readline()))

    def ask_behind(self) -> State:
        """`ask`, once the processes that ran until now have finished."""
        time.sleep(SETTLED_S)
        return self.ask()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def stolen_s() -> float:
    """Seconds, of all cores together, that the hypervisor has given to others while a thread here was ready to run."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(first[8]) / os.sysconf("SC_CLK_TCK")


def build(cache: Path) -> Path:
    """The program, compiled for this machine where it is missing or older than its source."""
    source, program = HERE / "memory_state.cpp", cache / "memory_state"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        cache.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "g++")
        command = [compiler, "-O3", "-march=native", "-std=c++17", "-pthread", str(source), "-o", str(program)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotInstalled(f"the memory probe needs a C++ compiler: {error}") from None
    return program


def name(state: State) -> str:
    """slow or fast: the two states that machines of this kind change between."""
    return "fast" if state["flag_us"] >= FAR_US else "slow"
