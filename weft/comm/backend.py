"""Which collectives the ranks use and what they must inherit for it. Decided in the supervisor; no torch.

`shared_memory` needs the compiled library; without it `gloo` serves, slower, and start-up says why.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from weft.arch.shards import Shards
from weft.comm.groups import distinct_groups
from weft.comm.shm.region import RankRecord, Region, read_records
from weft.errors import ConfigError
from weft.layout.ranks import Group
from weft.native import missing_reason
from weft.plural import counted

BACKENDS = ("auto", "shared_memory", "gloo")


@dataclass(frozen=True, slots=True)
class Backend:
    """`name`: shared_memory, gloo, or none for a single rank. `reason`: why not a faster one."""

    name: str
    groups: tuple[Group, ...]
    reason: str = ""
    debug: bool = False
    """Ranks compare every collective's shapes before it runs."""

    def __str__(self) -> str:
        if self.name == "none":
            return "none, a single rank"
        count = f"{self.name} over {counted(len(self.groups), 'group')}"
        count += ", shapes compared" if self.debug else ""
        return f"{count} ({self.reason})" if self.reason else count


def choose_backend(wanted: str, shards: Shards) -> Backend:
    """ConfigError: an unknown name, or shared_memory where its library is missing."""
    if wanted not in BACKENDS:
        raise ConfigError(f"comm {wanted}: legal: {', '.join(BACKENDS)}", field="comm", value=wanted, legal=BACKENDS)
    groups = groups_of(shards)
    if shards.layout.world == 1:
        return Backend("none", groups)
    missing = missing_reason("comm")
    if wanted == "gloo":
        return Backend("gloo", groups, "as asked")
    if not missing:
        return Backend("shared_memory", groups)
    if wanted == "shared_memory":
        raise ConfigError(
            f"comm shared_memory: the native library is missing: {missing}; legal here: gloo",
            field="comm",
            value=wanted,
            legal=("gloo",),
        )
    return Backend("gloo", groups, f"slower than shared_memory, whose library is missing: {missing}")


def groups_of(shards: Shards) -> tuple[Group, ...]:
    """Every group of ranks that the model's boundaries call on, in the one global order."""
    return distinct_groups(shards.passage.boundaries.values(), shards.layout.stage_size)


class Rendezvous:
    """What the ranks meet over: a shared region, or a loopback port bound before anybody knows it. The supervisor's."""

    def __init__(self, backend: Backend, world: int, *, own_cores: bool = True) -> None:
        """`own_cores`: nobody else wants the cores of these `world` ranks, the ranks of other replicas included; else
        who waits does not spin."""
        self.groups = backend.groups
        shared = backend.name == "shared_memory"
        spin_us = None if own_cores else 0
        self._region = Region.create(world, backend.groups, spin_us=spin_us, debug=backend.debug) if shared else None
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128) if backend.name == "gloo" else None

    def fds(self, rank: int) -> tuple[int, ...]:
        """Descriptors that `rank` inherits: the region for all, the listening socket for rank 0."""
        if self._region is not None:
            return (self._region.fd,)
        return (self._socket.fileno(),) if self._socket is not None and rank == 0 else ()

    @property
    def nbytes(self) -> int:
        """Of the region; 0 where there is none."""
        return 0 if self._region is None else self._region.size

    @property
    def port(self) -> int:
        """To meet at; 0 where there is none."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    def records(self) -> tuple[RankRecord, ...]:
        """What each rank was last in; none where the region does not say it."""
        return () if self._region is None else read_records(self._region.fd)

    def mark_dead(self, rank: int) -> None:
        """Ends the others' waits for `rank`, with its name."""
        if self._region is not None:
            self._region.mark_dead(rank)

    def met(self) -> None:
        """Every rank is there: nobody else may come."""
        if self._socket is not None:
            self._socket.close()

    def close(self) -> None:
        """Gives everything back; safe to call twice."""
        self.met()
        if self._region is not None:
            self._region.close()
            self._region = None
