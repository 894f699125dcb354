"""Processes and threads: how many more the system allows (`ulimit -u`, pids controllers), how many a start needs."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.machine.control_groups import OWN, ROOT, folders

# Counted while servers of one to four ranks ran.
_SERVER = 9
"""The server with its threads, and two processes for texts with two each."""
_RANK, _THREAD = 4, 3
"""A rank with one compute thread, and what each further thread brings at most."""
_EXEMPT = 1 << 21 | 1 << 24
"""CAP_SYS_ADMIN and CAP_SYS_RESOURCE (capabilities(7)): a process with either is not bound by RLIMIT_NPROC."""


def needed(threads: Iterable[int]) -> int:
    """Tasks of a server whose ranks have so many compute threads each."""
    return _SERVER + sum(_RANK + _THREAD * (each - 1) for each in threads)


def tasks_left(root: Path = ROOT, own: Path = OWN, proc: Path = Path("/proc")) -> tuple[int, str] | None:
    """The least that any limit allows beside what runs, and the limit's name and value; None without a limit."""
    found = [*_of_groups(root, own), *_of_user(proc)]
    return min(found, default=None)


def check(threads: Iterable[int]) -> None:
    """ConfigError: a limit leaves fewer processes and threads than the ranks need."""
    found, wanted = tasks_left(), needed(threads)
    if found is None:
        return
    left, name = found[0] + _own(), found[1]
    if left < wanted:
        raise ConfigError(
            f"{name} leaves {left} processes and threads; the server and its ranks need {wanted}:"
            " raise it, or start fewer ranks or threads (--threads)",
            field=name,
            value=left,
        )


def _own(proc: Path = Path("/proc")) -> int:
    """Tasks of this process and of its children, which may have been started ahead."""
    tasks = list((proc / "self" / "task").iterdir())
    children = [pid for each in tasks for pid in (each / "children").read_text().split()]
    return len(tasks) + sum(_tasks(proc / pid) for pid in children)


def explained(error: BaseException) -> ConfigError | None:
    """The error to show where a limit of tasks or of open files is the cause of `error`; None for other errors."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno == errno.EMFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            message = f"open files are limited to {limit} (ulimit -n), which is too few: raise the limit"
            return ConfigError(message, field="ulimit -n", value=limit)
        if "can't start new thread" in str(seen) or isinstance(seen, BlockingIOError):
            left, name = tasks_left() or (0, "the system")
            message = f"{name} leaves {left} processes and threads, which is too few: raise the limit"
            return ConfigError(message, field=name, value=left)
        seen = seen.__cause__ or seen.__context__
    return None


def _of_groups(root: Path, own: Path) -> Iterable[tuple[int, str]]:
    for folder in folders("pids", root, own):
        try:
            most, taken = int((folder / "pids.max").read_text()), int((folder / "pids.current").read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        yield max(0, most - taken), f"the control group's limit of processes (pids.max {most})"


def _of_user(proc: Path) -> Iterable[tuple[int, str]]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or _exempt(proc):
        return
    yield max(0, limit - sum(_tasks(each) for each in proc.iterdir())), f"the limit of processes (ulimit -u {limit})"


def _exempt(proc: Path) -> bool:
    status = dict(line.split(":", 1) for line in (proc / "self" / "status").read_text().splitlines())
    return os.getuid() == 0 or bool(int(status["CapEff"], 16) & _EXEMPT)


def _tasks(folder: Path) -> int:
    """Tasks of a process of this user; 0 for other files of /proc."""
    try:
        return len(os.listdir(folder / "task")) if folder.stat().st_uid == os.getuid() else 0
    except OSError:  # it has ended, or is no process
        return 0
