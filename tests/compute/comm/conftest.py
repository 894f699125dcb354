"""The host of real rank processes, one for all tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weft
from tests.support.native_libraries import need
from weft.compute.comm.registry import BACKENDS

HERE = Path(__file__).parent


class RankHost:
    """Runs scenarios of rank_scenarios.py on real processes."""

    def __init__(self) -> None:
        root = str(Path(weft.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "rank_host.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self,
        backend: str,
        world: int,
        scenario: str,
        *,
        timeout: float = 30.0,
        debug: bool = False,
        piece_bytes: int = 4096,
        stopped: int = 0,
        **args: Any,
    ) -> dict[str, Any]:
        """The outcome of each rank and the region's records. `stopped`: so many ranks never end unless killed."""
        job = {
            "backend": backend,
            "world": world,
            "scenario": scenario,
            "timeout": timeout,
            "debug": debug,
            "piece_bytes": piece_bytes,
            "stopped": stopped,
            "args": args,
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, Any] = json.loads(self._process.stdout.readline())
        return outcome

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=240)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def rank_host() -> Iterator[RankHost]:
    host = RankHost()
    yield host
    host.close()


@pytest.fixture(scope="session")
def native_comm() -> None:
    """Of the shared memory backend."""
    need("comm")


@pytest.fixture(params=[backend.name for backend in BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the registry, and connections between hosts of one rank each."""
    if request.param != "gloo":
        request.getfixturevalue("native_comm")
    return str(request.param)
