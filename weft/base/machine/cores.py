"""Which processor cores each rank runs on, and with how many threads; a thread kept to some of them for a while. Knows
no process and no torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from weft.base.errors import ConfigError
from weft.base.plural import counted, up_to

Core = tuple[int, ...]
"""The CPU numbers (hardware threads) of one physical core."""


@dataclass(frozen=True, slots=True)
class CoreShare:
    """`cpus` to run on (empty: not pinned) and the number of compute threads; `spare`: those of its cpus whose cores no
    thread keeps to; `yielded`: those of its last thread, where that yields its core to the server."""

    cpus: tuple[int, ...]
    threads: int
    spare: tuple[int, ...] = ()
    yielded: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f"on cpus {as_runs(self.cpus)}" if self.cpus else "not pinned"
        return f"{counted(self.threads, 'thread')} {where}"


def assign_cores(
    cores: Sequence[Core], ranks: int, quota: float | None = None, threads: int | None = None
) -> tuple[CoreShare, ...]:
    """Distinct cores for each rank while there are enough of them, else one unpinned thread each.

    `quota` is the number of cores' time that the container may use; threads beyond it would only wait for each other.
    `threads`: of each rank, as asked; ranks whose threads are more than their cores are not pinned. ConfigError: more
    threads than cores.
    """
    if threads is not None and threads > len(cores):
        raise ConfigError(
            f"threads {threads}: this process may use {counted(len(cores), 'core')}; legal: {up_to(len(cores))}",
            field="threads",
            value=threads,
            legal=tuple(range(1, len(cores) + 1)),
        )
    usable = usable_cores(len(cores), quota)
    if ranks > len(cores):
        return tuple(CoreShare((), threads or 1) for _ in range(ranks))
    shares = []
    for rank in range(ranks):
        mine = cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks]
        count = threads or max(1, min(len(mine), usable // ranks))
        shares.append(
            CoreShare(all_cpus(mine), count, all_cpus(mine[count:])) if count <= len(mine) else CoreShare((), count)
        )
    return tuple(shares)


def yield_core(shares: Sequence[CoreShare], cores: Sequence[Core]) -> tuple[CoreShare, ...]:
    """`shares` of `cores`, where the last rank's last thread yields its core if no core is spare and it is not its only
    one: one thread that comes a little later to each step costs less than one that is interrupted in it."""
    last = shares[-1]
    if server_cpus(shares) or not last.cpus or last.threads == 1:
        return tuple(shares)
    return (*shares[:-1], replace(last, yielded=all_cpus(cores[-1:])))


def server_cpus(shares: Sequence[CoreShare]) -> tuple[int, ...]:
    """Where the front end and the engines run: on what the ranks' threads leave, else on a core that a thread yields;
    empty where they have everything."""
    return tuple(sorted(cpu for share in shares for cpu in share.spare)) or shares[-1].yielded


def available_cores(root: Path = Path("/sys/devices/system/cpu")) -> tuple[Core, ...]:
    """Physical cores this process may use, neighbours (same memory node, then same package) together: what threads of a
    rank write first lies on the node of the cores that they keep to."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        topology = root / f"cpu{cpu}" / "topology"
        package, core = _number(topology / "physical_package_id", 0), _number(topology / "core_id", cpu)
        groups.setdefault((numa_node((cpu,), root) or 0, package, core), []).append(cpu)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def boot_id() -> str:
    """Equal for all processes of one machine until it starts again; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def numa_node(cpus: Sequence[int], root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """The memory node of these CPU numbers; None for none, for several nodes, and where the system does not say."""
    nodes = {entry.name for cpu in cpus for entry in (root / f"cpu{cpu}").glob("node[0-9]*")}
    return int(nodes.pop().removeprefix("node")) if len(nodes) == 1 else None


def usable_cores(count: int, quota: float | None) -> int:
    """Of `count` cores, those that `quota` has time for."""
    return count if quota is None else max(1, min(count, int(quota + 0.5)))


def all_cpus(cores: Sequence[Core]) -> tuple[int, ...]:
    """The CPU numbers of cores."""
    return tuple(sorted(cpu for core in cores for cpu in core))


def _number(path: Path, default: int) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return default


def as_runs(cpus: tuple[int, ...]) -> str:
    """For people: '0-3, 8' for 0 1 2 3 8."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ", ".join(str(lo) if lo == hi else f"{lo}-{hi}" for lo, hi in runs)


class KeptTo:
    """Keeps the thread that enters, and those that it makes meanwhile, to these CPUs until it is left, in whichever
    thread."""

    def __init__(self, cpus: Collection[int]) -> None:
        self._cpus, self._before = cpus, os.sched_getaffinity(0)
        self._thread = threading.get_native_id()

    def __enter__(self) -> None:
        try:
            os.sched_setaffinity(0, self._cpus)
        except BaseException:  # an interrupt may come after the call, and no `with` is entered then
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the thread has ended, or may run on none of those any more
            os.sched_setaffinity(self._thread, self._before)
