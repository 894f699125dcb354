"""What the control groups of this process leave it, of memory and of processor time.

A limit may stand at the process's own group (a unit of systemd, a container that sees the host's groups) or at any
above it; a container that sees only its own has it at the root. Both versions are read: cgroups(7).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of each version: what a group may have, what it has, and what of that the kernel gives back when asked."""


def memory_left(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes, the least of all groups; None without a limit."""
    left = (_left(folder, *names) for folder in folders("memory", root, own) for names in _MEMORY)
    return min((found for found in left if found is not None), default=None)


def memory_shares(root: Path = ROOT, own: Path = OWN, machine: Path = Path("/proc/meminfo")) -> list[tuple[int, int]]:
    """(bytes left, bytes in all) of the machine and of each group that has a limit."""
    found = []
    for folder in folders("memory", root, own):
        for names in _MEMORY:
            left = _left(folder, *names)
            if left is not None:
                found.append((left, int((folder / names[0]).read_text())))
    fields = dict(line.split(":", 1) for line in machine.read_text().splitlines())
    left, whole = (int(fields[name].split()[0]) << 10 for name in ("MemAvailable", "MemTotal"))
    return [(left, whole), *((left, limit) for left, limit in found if limit < whole)]


def oom_kills(root: Path = ROOT, own: Path = OWN, machine: Path = Path("/proc/vmstat")) -> int:
    """Processes that the system has killed for want of memory, as it and this process's groups count them."""
    files = [machine]
    for folder in folders("memory", root, own):
        files += [folder / "memory.events", folder / "memory.oom_control"]
    return sum(map(_oom_kills_in, files))


def _oom_kills_in(file: Path) -> int:
    try:
        rows = (line.split() for line in file.read_text().splitlines())
        return sum(int(row[1]) for row in rows if row[0] == "oom_kill")
    except (OSError, ValueError, IndexError):
        return 0


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float | None:
    """Cores' worth of time, the least of all groups; None without a limit."""
    return min((quota for folder in folders("cpu", root, own) if (quota := _quota(folder))), default=None)


def folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """Folders of the groups that this process is in, whether they exist or not, and the roots."""
    yield from (root, root / controller)
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath(path).parts[1:]
        if ".." in parts or controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        yield from (base.joinpath(*parts[:end]) for end in range(1, len(parts) + 1))


def _left(folder: Path, limit: str, used: str, given_back: str) -> int | None:
    try:
        most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return most - taken + int(stat.get(given_back, 0))


def _quota(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us, period_us = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 and period_us > 0 else None
