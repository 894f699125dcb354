"""Where ranks of several hosts meet: this host's own rendezvous, and the sessions of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from weft.compute.comm.backend import Address, Rendezvous
from weft.compute.comm.shm.region import RankRecord
from weft.parallel.layout.ranks import Group
from weft.runtime.supervisor.hosts.host_messages import AllMet, MarkDead, MeetAt
from weft.runtime.supervisor.hosts.session import HostSession


class HostsRendezvous(Rendezvous):
    """Of ranks on several hosts: `local`, of those on this one (None: there are none), and the other hosts' sessions.
    `refresh` asks agents for the present state of their ranks."""

    def __init__(
        self,
        groups: tuple[Group, ...],
        local: Rendezvous | None,
        sessions: Sequence[HostSession],
        refresh: Callable[[], None],
    ) -> None:
        super().__init__(groups)
        self._local, self._sessions, self._refresh = local, tuple(sessions), refresh
        self._dead: set[int] = set()

    def fds(self, rank: int) -> tuple[int, ...]:
        """As `Rendezvous`."""
        return () if self._local is None else self._local.fds(rank)

    def addresses(self) -> dict[int, Address]:
        """As `Rendezvous`, of all hosts."""
        found = {} if self._local is None else self._local.addresses()
        for session in self._sessions:
            found |= session.addresses
        return found

    def meet(self) -> None:
        """Says to every agent where all ranks listen."""
        for session in self._sessions:
            session.say(MeetAt(self.addresses()))

    def records(self) -> tuple[RankRecord, ...]:
        """As `Rendezvous`."""
        found: Mapping[int, RankRecord] = {}
        if self._local is not None:
            found = {record.rank: record for record in self._local.records()}
        for session in self._sessions:
            found = {**found, **session.records()}
        world = sum(len(session.links) for session in self._sessions)
        whole = len(found) >= world and {*found} == {*range(len(found))}
        return tuple(found[rank] for rank in range(len(found))) if whole else ()

    def refresh(self) -> None:
        """Asks for the present state of ranks of other hosts; waits for it a moment."""
        self._refresh()

    def mark_dead(self, rank: int) -> None:
        """As `Rendezvous`, on every host."""
        if rank in self._dead:
            return
        self._dead.add(rank)
        if self._local is not None:
            self._local.mark_dead(rank)
        for session in self._sessions:
            session.say(MarkDead([rank]))

    def met(self) -> None:
        """As `Rendezvous`."""
        if self._local is not None:
            self._local.met()
        for session in self._sessions:
            session.say(AllMet())

    def close(self) -> None:
        """As `Rendezvous`."""
        if self._local is not None:
            self._local.close()
