"""Which cores the ranks and the server get: those that a person lists (`--cpus`, `--server-cpus`), else by rule.

Numbers only, as in `cores`, which has the rule.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from weft.base.errors import ConfigError
from weft.base.machine.cores import (
    Core,
    CoreShare,
    all_cpus,
    as_runs,
    assign_cores,
    server_cpus,
    usable_cores,
    yield_core,
)
from weft.base.plural import counted, up_to
from weft.base.settings import EngineConfig

_RUN = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5})(?::([0-9]{1,5}))?)?")
_FORM = "CPU numbers and runs with commas between, as 0-3,8 (0-6:2: every second one)"


@dataclass(frozen=True, slots=True)
class CpuAssignment:
    """A share for each rank, and where the front end and the engines keep to; empty: nowhere, for the ranks' threads
    have all cores."""

    shares: tuple[CoreShare, ...]
    server: tuple[int, ...]

    def lines(self, where: Sequence[str]) -> list[str]:
        """For people; `where`: every rank's number and coordinates."""
        free = as_runs(self.server)
        note = ", which a rank's last thread yields when they need them" if self.shares[-1].yielded else ""
        return [
            *(f"{each}: {share}" for each, share in zip(where, self.shares, strict=True)),
            f"HTTP server and scheduler {f'on cpus {free}{note}' if free else 'not pinned, on the cores of the ranks'}",
        ]


def assign_cpus(
    cores: Sequence[Core], ranks: int, quota: float | None, engine: EngineConfig, *, can_yield: bool
) -> CpuAssignment:
    """Assigns `cores` to this machine's `ranks` and to the server. `quota`: as in `assign_cores`; `can_yield`: whether
    a thread can yield its core to the server. ConfigError: `cpus`, `server_cpus` or `threads` cannot be."""
    asked = engine.server_cpus
    server = () if asked is None else _read("server_cpus", asked, asked, cores)
    if engine.cpus is None:
        return _by_rule(cores, ranks, quota, engine, server, can_yield=can_yield)
    shares = _as_listed(_lists(engine.cpus, cores, ranks), quota, engine.threads)
    yielding = yield_core(shares, _of(cores, shares[-1].cpus)) if can_yield else shares
    if not server:
        free = _free(cores, shares)
        return CpuAssignment(shares, free) if free else CpuAssignment(yielding, yielding[-1].yielded)
    if {*server} <= {*yielding[-1].yielded}:
        return CpuAssignment(yielding, server)
    _check_beside(shares, yielding[-1].yielded, all_cpus(cores), server, asked)
    return CpuAssignment(shares, server)


def read_list(text: str) -> frozenset[int] | None:
    """The CPU numbers of 0-3,8, in the form that `taskset -c` takes; None for what is no list."""
    found: set[int] = set()
    for part in text.split(","):
        run = _RUN.fullmatch(part.strip())
        if run is None:
            return None
        first, last, stride = int(run[1]), int(run[2] or run[1]), int(run[3] or 1)
        if last < first or not stride:
            return None
        found.update(range(first, last + 1, stride))
    return frozenset(found)


def _by_rule(
    cores: Sequence[Core],
    ranks: int,
    quota: float | None,
    engine: EngineConfig,
    server: tuple[int, ...],
    *,
    can_yield: bool,
) -> CpuAssignment:
    """As `assign_cores` does, of the CPUs that are not the server's. ConfigError: these are too few."""
    if not server:
        shares = assign_cores(cores, ranks, quota, engine.threads)
        shares = yield_core(shares, cores) if can_yield else shares
        return CpuAssignment(shares, server_cpus(shares))
    rest, threads = _of(cores, {*all_cpus(cores)} - {*server}), ranks * (engine.threads or 1)
    if threads > len(rest):
        left = f"it leaves {counted(len(rest), 'core')} to {counted(threads, 'thread')} of {counted(ranks, 'rank')}"
        most = len(cores) - threads
        legal = f"legal: CPUs of at most {counted(most, 'core')}, or leave" if most > 0 else "leave"
        raise _refused("server_cpus", engine.server_cpus, f"{left}; {legal} server_cpus out")
    return CpuAssignment(assign_cores(rest, ranks, quota, engine.threads), server)


def _lists(text: str, cores: Sequence[Core], ranks: int) -> list[tuple[Core, ...]]:
    """The cores that `text` lists for each rank. ConfigError: another number of lists, or one that cannot be."""
    parts, legal = text.split("|"), f"legal: a list for each, none with another's CPUs{_example(cores, ranks)}"
    if len(parts) != ranks:
        raise _refused("cpus", text, f"{counted(len(parts), 'list')} for {counted(ranks, 'rank')}; {legal}")
    owners: dict[int, int] = {}
    lists = []
    for rank, part in enumerate(parts):
        if not part.strip():
            raise _refused("cpus", text, f"the list of rank {rank} is empty; {legal}")
        cpus = _read("cpus", text, part, cores)
        if shared := [cpu for cpu in cpus if cpu in owners]:
            clash = f"ranks {owners[shared[0]]} and {rank} would share cpu {shared[0]}"
            raise _refused("cpus", text, f"{clash}; {legal}")
        owners |= dict.fromkeys(cpus, rank)
        lists.append(_of(cores, cpus))
    return lists


def _as_listed(lists: Sequence[tuple[Core, ...]], quota: float | None, threads: int | None) -> tuple[CoreShare, ...]:
    """A thread for each core of a list, or those that were asked for, or that the quota has time for: one for each
    rank, and of the others a part in proportion to the rest of its list."""
    least, every = min(map(len, lists)), sum(map(len, lists))
    if threads is not None and threads > least:
        rank = [*map(len, lists)].index(least)
        problem = f"threads {threads}: cpus has {counted(least, 'core')} for rank {rank}; legal: {up_to(least)}"
        raise ConfigError(problem, field="threads", value=threads, legal=tuple(range(1, least + 1)))
    others, rest = max(0, usable_cores(every, quota) - len(lists)), max(1, every - len(lists))
    shares = []
    for mine in lists:
        count = threads or 1 + others * (len(mine) - 1) // rest
        shares.append(CoreShare(all_cpus(mine), count, all_cpus(mine[count:])))
    return tuple(shares)


def _check_beside(
    shares: Sequence[CoreShare],
    yielded: tuple[int, ...],
    usable: Sequence[int],
    server: Sequence[int],
    asked: str | None,
) -> None:
    """ConfigError: `server`, as `asked` for, would interrupt a thread that does not yield its core."""
    busy = {cpu: rank for rank, share in enumerate(shares) for cpu in share.cpus if cpu not in share.spare}
    held = next((cpu for cpu in server if cpu in busy), None)
    if held is None:
        return
    legal = [_runs(free)] if (free := {*usable} - busy.keys()) else []
    legal += [f"{_runs(yielded)} alone, which the last thread yields"] if yielded else []
    words = f"legal: {', or '.join(legal)}" if legal else "leave server_cpus out"
    raise _refused("server_cpus", asked, f"on cpu {held} it would interrupt a thread of rank {busy[held]}; {words}")


def _read(field: str, text: str, part: str, cores: Sequence[Core]) -> tuple[int, ...]:
    """The list `part` of the value `text`. ConfigError: it is none, or names CPUs that this process may not use."""
    found, usable = read_list(part), all_cpus(cores)
    if found is None:
        raise _refused(field, text, f"{part.strip()!r} is no list of CPUs; legal: {_FORM}")
    if strange := found - {*usable}:
        raise _refused(field, text, f"this process may not use {_runs(strange)}; legal: {_runs(usable)}")
    return tuple(sorted(found))


def _free(cores: Sequence[Core], shares: Sequence[CoreShare]) -> tuple[int, ...]:
    """Of the cores that are on no list, and those that no thread keeps to."""
    listed = {cpu for share in shares for cpu in share.cpus}
    return tuple(sorted((*all_cpus([core for core in cores if not listed & {*core}]), *server_cpus(shares))))


def _of(cores: Sequence[Core], cpus: Collection[int]) -> tuple[Core, ...]:
    """What of each core is among `cpus`, where anything is."""
    parts = (tuple(cpu for cpu in core if cpu in cpus) for core in cores)
    return tuple(part for part in parts if part)


def _example(cores: Sequence[Core], ranks: int) -> str:
    """Lists that would be legal, where CPUs suffice."""
    cpus = all_cpus(cores)
    if ranks > len(cpus):
        return f"; this process may use {counted(len(cpus), 'CPU')}: leave cpus out"
    assigned = assign_cores(cores if ranks <= len(cores) else [(cpu,) for cpu in cpus], ranks)
    return f", as '{'|'.join(_runs(share.cpus) for share in assigned)}'"


def _runs(cpus: Collection[int]) -> str:
    """As a person would list them: 0-3,8."""
    return as_runs(tuple(sorted(cpus))).replace(", ", ",")


def _refused(field: str, value: str | None, problem: str) -> ConfigError:
    return ConfigError(f"{field} {value!r}: {problem}", field=field, value=value)
