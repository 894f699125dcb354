"""Memory of a process and all its children, from /proc. Linux only."""

from __future__ import annotations

import re
from pathlib import Path

MIB = 2**20


def tree(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """`pid` and everything it started that is alive, parents first."""
    children: dict[int, list[int]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; what follows the last bracket is: state, parent.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, ())
    return found


def runs(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process is there and not just waiting to be collected."""
    try:
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def memory(pid: int, proc: Path = Path("/proc")) -> dict[str, int]:
    """Bytes: `peak`, the sum of each process's own largest resident size (shared pages count in each); `pss`, what the
    tree holds now, shared pages counted once."""
    peak = pss = 0
    for one in tree(pid, proc):
        peak += _kib(proc / str(one) / "status", "VmHWM")
        pss += _kib(proc / str(one) / "smaps_rollup", "Pss")
    return {"peak": peak * 1024, "pss": pss * 1024}


def _kib(path: Path, name: str) -> int:
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:  # it has ended meanwhile
        return 0
    return int(match[1]) if match else 0
