"""Backend `gloo`: torch.distributed, over the loopback address or between hosts. Imports no torch itself.

The supervisor of rank 0's host opens the listening socket, so that no port is chosen first and bound later, and nothing
listens beyond 127.0.0.1, or the host's own address where there are several hosts. Ranks of that host inherit it: rank 0
accepts on it, the others read its port. torch's connections prove no secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.compute.comm.backend import Address, CommSpec, RankEnd, Rendezvous, make_in
from weft.compute.comm.distributed.links import listen_in
from weft.parallel.layout.ranks import Group

if TYPE_CHECKING:
    from weft.compute.comm.base import Comm

HOST = "127.0.0.1"


class ListeningSocket(Rendezvous):
    """On a free port of the loopback address, or of `host`."""

    def __init__(self, groups: tuple[Group, ...], host: str = HOST, ports: tuple[int, int] | None = None) -> None:
        super().__init__(groups)
        self._host, self._socket = host, listen_in(host, ports)

    def fds(self, rank: int) -> tuple[int, ...]:
        """As `Rendezvous`."""
        return (self._socket.fileno(),)

    def addresses(self) -> dict[int, Address]:
        """As `Rendezvous`: where all meet is rank 0's."""
        return {0: (self._host, self._socket.getsockname()[1])}

    def met(self) -> None:
        """As `Rendezvous`."""
        self._socket.close()

    def close(self) -> None:
        """As `Rendezvous`."""
        self._socket.close()


class Gloo:
    """Runs wherever torch does."""

    name, keeps_records = "gloo", False

    def why_not(self, world: int, hosts: int, device: str) -> str:
        """As `Backend`."""
        return ""

    def meet(self, spec: CommSpec) -> Rendezvous:
        """As `Backend`."""
        groups, site = spec.groups, spec.site
        if site is None:
            return ListeningSocket(groups)
        return ListeningSocket(groups, site.address, site.ports) if 0 in site.ranks else Rendezvous(groups)

    def make(self, end: RankEnd) -> Comm:
        """As `Backend`."""
        return make_in("weft.compute.comm.distributed.gloo", end)
