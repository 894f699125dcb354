"""Waiting for conditions and for processes that end. Limits are for machines with much else to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 60.0
"""Much longer than anything here takes on an idle machine; a test that waits so long has failed."""


def until(condition: Callable[[], object], what: str = "it did not happen", limit_s: float = PATIENCE_S) -> None:
    """Comes back as soon as `condition` holds; AssertionError with `what` after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> bytes:
    """Words of a process, with zeros between them; none of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_gone(pids: Collection[int]) -> None:
    """Until none of the processes runs: those that end with another one end soon after it, not with it."""
    until(lambda: not any(map(alive, pids)), f"a process of {sorted(pids)} still runs")


def children(pid: int) -> list[int]:
    """Pids that any thread of a process has started, those included that ended and were not reaped."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends just now
            found += map(int, path.read_text().split())
    return sorted(found)


def ranks_of(pid: int) -> list[int]:
    """Those that compute as ranks, of the processes that a process has started."""
    return [child for child in children(pid) if b"weft.runtime.worker.main" in command_line(child)]


def ticks(pid: int) -> int:
    """Clock ticks of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def listening_port(pid: int) -> int | None:
    """The lowest TCP port on 127.0.0.1 that a process listens on; None: it does not, or has ended."""
    mine = set()
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # a descriptor that is closed just now
            mine.add(path.readlink().name)
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [words[1] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in mine]
    return min((int(address.rpartition(":")[2], 16) for address in listening), default=None)
