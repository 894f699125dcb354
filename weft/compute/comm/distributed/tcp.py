"""Backend `tcp`: ranks of several hosts. Groups inside a host share memory, the others call over TCP. No torch.

On each host one process opens a region for its ranks and a listening socket for each of them, bound to the host's own
address. Where they listen, and the secret of the start, come to the ranks with their setup.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.compute.comm.backend import Address, CommSpec, HostSite, RankEnd, Rendezvous, make_in
from weft.compute.comm.distributed.links import listen_in
from weft.compute.comm.shm.region import SPIN_US, RankRecord, Region, read_records
from weft.compute.native import missing_reason
from weft.parallel.layout.ranks import Group

if TYPE_CHECKING:
    from weft.compute.comm.base import Comm


class RegionAndListeners(Rendezvous):
    """What the ranks of one host inherit: its region, and each its own listening socket."""

    def __init__(self, region: Region, groups: tuple[Group, ...], site: HostSite) -> None:
        super().__init__(groups)
        self._region: Region | None = region
        self._listeners: dict[int, socket.socket] = {}
        try:
            for rank in site.ranks:
                self._listeners[rank] = listen_in(site.address, site.ports)
        except BaseException:
            self.close()
            raise
        self._address = site.address

    def fds(self, rank: int) -> tuple[int, ...]:
        """As `Rendezvous`."""
        return () if self._region is None else (self._region.fd, self._listeners[rank].fileno())

    def addresses(self) -> dict[int, Address]:
        """As `Rendezvous`."""
        return {rank: (self._address, sock.getsockname()[1]) for rank, sock in self._listeners.items()}

    def records(self) -> tuple[RankRecord, ...]:
        """As `Rendezvous`."""
        return () if self._region is None else read_records(self._region.fd)

    def mark_dead(self, rank: int) -> None:
        """As `Rendezvous`."""
        if self._region is not None:
            self._region.mark_dead(rank)

    def met(self) -> None:
        """As `Rendezvous`."""
        for sock in self._listeners.values():
            sock.close()

    def close(self) -> None:
        """As `Rendezvous`."""
        self.met()
        region, self._region = self._region, None
        if region is not None:
            region.close()


@dataclass(frozen=True, slots=True)
class Tcp:
    """For ranks of several hosts."""

    name: str = "tcp"
    keeps_records: bool = True

    def why_not(self, world: int, hosts: int, device: str) -> str:
        """As `Backend`."""
        if hosts == 1:
            return "ranks are on one machine"
        missing = missing_reason("comm")
        return f"the native library is missing: {missing}" if missing else ""

    def meet(self, spec: CommSpec) -> Rendezvous:
        """As `Backend`."""
        site = spec.site or HostSite(0, (0,) * spec.world, "127.0.0.1")
        region = Region.create(
            spec.world,
            spec.groups,
            spin_us=SPIN_US if spec.own_cores else 0,
            debug=spec.debug,
            host_of=site.host_of,
            host=site.number,
            mailboxes=spec.mailboxes,
        )
        return RegionAndListeners(region, spec.groups, site)

    def make(self, end: RankEnd) -> Comm:
        """As `Backend`."""
        return make_in("weft.compute.comm.distributed.tcp_comm", end)
