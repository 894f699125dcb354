"""Backend `gloo`: torch.distributed over the loopback address. Imports no torch itself.

The supervisor opens the listening socket, so that no port is chosen first and bound later, and nothing listens beyond
127.0.0.1. Every rank inherits it: rank 0 accepts on it, the others read its port.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from weft.comm.backend import HostSite, RankEnd, Rendezvous, make_in
from weft.layout.ranks import Group

if TYPE_CHECKING:
    from weft.comm.base import Comm

HOST = "127.0.0.1"


class ListeningSocket(Rendezvous):
    """On a free loopback port."""

    def __init__(self, groups: tuple[Group, ...]) -> None:
        super().__init__(groups)
        self._socket = socket.create_server((HOST, 0), backlog=128)

    def fds(self, rank: int) -> tuple[int, ...]:
        """As `Rendezvous`."""
        return (self._socket.fileno(),)

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
        return "ranks are on several machines, and it meets on the loopback address" if hosts > 1 else ""

    def meet(
        self, world: int, groups: tuple[Group, ...], *, own_cores: bool, debug: bool, site: HostSite | None = None
    ) -> Rendezvous:
        """As `Backend`."""
        return ListeningSocket(groups)

    def make(self, end: RankEnd) -> Comm:
        """As `Backend`."""
        return make_in("weft.comm.distributed.gloo", end)
