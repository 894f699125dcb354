"""The seam of a comm backend: how the supervisor lets ranks meet, and how a rank makes its end. No torch.

A backend is one object of class `Backend`. To add one, write it beside its `Comm` and add it to
`compute/comm/registry.py`; `--comm` and start-up then know it. `tests/compute/comm/test_toy_backend.py` does that with
a small one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from weft.compute.comm.mailboxes import NO_MAILBOXES, Mailboxes
from weft.compute.comm.shm.region import RankRecord
from weft.parallel.layout.ranks import Group

if TYPE_CHECKING:
    from weft.compute.comm.base import Comm  # imports torch

Address = tuple[str, int]
"""A numeric IPv4 or IPv6 address, and a port."""


@dataclass(frozen=True, slots=True)
class RankEnd:
    """What a rank's end is made of. `groups`: all groups of the world, in one order for all ranks; `fds`: what
    `Rendezvous.fds` gave for this rank, closed by the caller afterwards; `limit_s`: seconds that a wait may take;
    `debug`: ranks compare the shapes of every collective before it runs."""

    rank: int
    world: int
    groups: tuple[Group, ...]
    fds: Sequence[int] = ()
    limit_s: float = 30.0
    debug: bool = False
    host_of: tuple[int, ...] = ()
    """The host of each rank, where there are several."""
    peers: Mapping[int, Address] = field(default_factory=dict)
    """Where ranks of other hosts listen."""
    token: bytes = b""
    """What connections between hosts have to prove."""
    address: str = ""
    """Of its host, where there are several."""
    meet_limit_s: float = 120.0
    """Seconds that connecting to ranks of other hosts may take."""


@dataclass(frozen=True, slots=True)
class HostSite:
    """A host of several that ranks of one world are on: its number, the host of each rank, the address of its own that
    its sockets are bound to, and the ports that they may take (None: any)."""

    number: int
    host_of: tuple[int, ...]
    address: str
    ports: tuple[int, int] | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those on this host."""
        return tuple(rank for rank, host in enumerate(self.host_of) if host == self.number)


@dataclass(frozen=True, slots=True)
class CommSpec:
    """What a world's ranks meet for. `own_cores`: no other process wants their cores, so that waiting ranks may spin.
    `site`: where ranks are on several hosts, the one that this process is on. `mailboxes`: between pipeline stages."""

    world: int
    groups: tuple[Group, ...]
    own_cores: bool = True
    debug: bool = False
    site: HostSite | None = None
    mailboxes: Mailboxes = NO_MAILBOXES


class Rendezvous:
    """The supervisor's side: what ranks inherit to meet, and what can be read of them. This one needs nothing."""

    def __init__(self, groups: tuple[Group, ...]) -> None:
        self.groups = groups

    def fds(self, rank: int) -> tuple[int, ...]:
        """Descriptors that `rank` inherits."""
        return ()

    def addresses(self) -> dict[int, Address]:
        """Where ranks of this host listen for those of others, by rank."""
        return {}

    def records(self) -> tuple[RankRecord, ...]:
        """The collective that each rank was last in; empty where the backend keeps no such record."""
        return ()

    def refresh(self) -> None:
        """Makes `records` and the status page say what is so now, where other hosts' ranks are in them."""

    def mark_dead(self, rank: int) -> None:
        """Ends the other ranks' waits for `rank`, with its name."""

    def met(self) -> None:
        """Every rank has made its end: no other process may connect."""

    def close(self) -> None:
        """Gives everything back; safe to call twice."""


class Backend(Protocol):
    """Collectives between processes."""

    @property
    def name(self) -> str:
        """The word for --comm."""
        ...

    @property
    def keeps_records(self) -> bool:
        """Whether `Rendezvous.records` has the last collective of each rank; else ranks write it to the status page."""
        ...

    def why_not(self, world: int, hosts: int, device: str) -> str:
        """Why `world` ranks on `hosts` machines, which compute on `device`, cannot use it; empty: they can."""
        ...

    def meet(self, spec: CommSpec) -> Rendezvous:
        """In the supervisor."""
        ...

    def make(self, end: RankEnd) -> Comm:
        """In a rank's process; returns once the other ranks are there. PeerError: one of them did not come."""
        ...


class SingleRank:
    """For a world of one rank, which calls no collective."""

    name, keeps_records = "none", True

    def why_not(self, world: int, hosts: int, device: str) -> str:
        """As `Backend`."""
        return "it is for a single rank" if world > 1 else ""

    def meet(self, spec: CommSpec) -> Rendezvous:
        """As `Backend`."""
        return Rendezvous(spec.groups)

    def make(self, end: RankEnd) -> Comm:
        """As `Backend`."""
        return make_in("weft.compute.comm.lockstep", end)


def make_in(module: str, end: RankEnd) -> Comm:
    """`module.make(end)`: by name, because these modules import torch, which a supervisor does without."""
    comm: Comm = import_module(module).make(end)
    return comm
