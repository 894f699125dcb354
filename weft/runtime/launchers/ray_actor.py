"""HostActor: an actor of Ray on one host, which runs weft's agent there. It imports no Ray: Ray makes an actor of it.

The agent is a process of its own, tied to the actor's by a pipe: Ray leaves the children of a killed actor running.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from weft.base.env import DIST_SECRET
from weft.base.machine.interpreter import finding_weft, runs

LINES = 20
"""Of what the agent printed last."""


def versions() -> dict[str, str]:
    """What must be the same on every host of a Ray cluster before anything is started there."""
    found = {"Python": platform.python_version()}
    for name in ("ray", "weft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class HostActor:
    """Each method is called from another process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def facts(self) -> tuple[dict[str, str], str]:
        """`versions` here, and the host's name."""
        return versions(), platform.node()

    def run(self, words: Sequence[str], folder: str, secret: str) -> tuple[int, list[str]]:
        """Runs `weft WORDS` until it ends: its exit code, and what it printed last. `folder`: where it was typed, taken
        if this host has it."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        environ = finding_weft(os.environ | {DIST_SECRET: secret, "PYTHONUNBUFFERED": "1"})
        command = [*runs("weft.cli.hosted"), str(read_end), str(os.getpid()), "0", *words]
        try:
            with self._lock:
                self._process = process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    pass_fds=(read_end,),
                    env=environ,
                    cwd=folder if Path(folder).is_dir() else None,
                )
            return self._followed(process)
        finally:
            os.close(read_end)
            os.close(write_end)

    @staticmethod
    def _followed(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
        lines: deque[str] = deque(maxlen=LINES)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                sys.stdout.write(line)  # a log of Ray's on this host
                sys.stdout.flush()
        return process.wait(), list(lines)
