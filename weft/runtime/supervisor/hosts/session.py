"""A set of ranks on another host, through its agent: one connection, and a link for each rank."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from weft.base.errors import PeerError
from weft.compute.comm.backend import Address
from weft.compute.comm.shm.region import RankRecord
from weft.runtime.ipc.channel import Channel, ChannelClosed
from weft.runtime.ipc.messages import error_of
from weft.runtime.ipc.status import StatusPage
from weft.runtime.supervisor.hosts.host_messages import (
    COMMAND,
    Ended,
    RankState,
    Spawned,
    ToSession,
    addressed,
    command,
    from_session,
    of_ranks,
    parted,
    read,
)
from weft.runtime.supervisor.link import RankGoneError, RankLink, SendFrames, fate_of

LOST_S = 1.0
"""How long to wait for the reason after a session's connection has ended."""


class AgentOfSession(Protocol):
    """What a session needs of the control connection to its agent."""

    @property
    def words(self) -> str:
        """The host, for people."""
        ...

    def lost(self, wait_s: float = 0.0) -> str:
        """Why the host is lost; empty while it is not."""
        ...

    def forget(self, number: int) -> None:
        """The session has ended."""


class RemoteRank:
    """One rank's process on another host, a `RankLink`."""

    def __init__(self, session: HostSession, rank: int, where: str, number: int) -> None:
        self.session, self.rank, self.number = session, rank, number
        self.where = f"{where} on {session.agent.words}"
        self.pid = 0
        self.code: int | None = None
        self.suspended = self.lacked_memory = False
        self.processor_s = 0.0
        self.inbox: deque[bytes] = deque()

    @property
    def lost_host(self) -> str:
        """As of `RankLink`."""
        return self.session.lost if self.code is None else ""

    def fds(self) -> Sequence[int]:
        """As of `RankLink`; one for all ranks of the host."""
        return (self.session.fileno(),)

    def take(self, fd: int, timeout_s: float) -> tuple[RankLink, bytes]:
        """As of `RankLink`."""
        return self.session.take(timeout_s)

    def waiting(self) -> bytes | None:
        """As of `RankLink`."""
        self.session.read_all()
        return self.inbox.popleft() if self.inbox else None

    def send(self, frame: bytes, timeout_s: float) -> None:
        """As of `RankLink`."""
        self.session.send(addressed(self.rank, frame), timeout_s)

    def sender(self) -> tuple[object, SendFrames]:
        """As of `RankLink`: one frame reaches all ranks of the host."""
        return self.session, self.session.send_each

    def exit_code(self) -> int | None:
        """As of `RankLink`."""
        return self.code

    def fate(self) -> str | None:
        """As of `RankLink`."""
        self.session.read_all()
        if self.code is not None:
            return fate_of(self.code)
        return "was lost with its host" if self.session.closed else None

    def stopped(self) -> bool:
        """As of `RankLink`; of the last states that were sent."""
        return self.suspended

    def out_of_memory(self) -> bool:
        """As of `RankLink`."""
        return self.lacked_memory

    def cpu_s(self) -> float:
        """As of `RankLink`."""
        return self.processor_s

    def wait(self, timeout_s: float) -> bool:
        """As of `RankLink`."""
        return self.session.wait_for(lambda: self.code is not None, timeout_s)

    def kill(self) -> None:
        """As of `RankLink`: the agent ends all ranks of a session whose connection has ended."""
        self.session.hang_up()

    def release(self) -> None:
        """As of `RankLink`."""
        self.session.close()


class HostSession:
    """`number`: of the session. `status`: the page of all ranks, to which the states of these are written."""

    def __init__(self, agent: AgentOfSession, number: int, channel: Channel, status: StatusPage) -> None:
        self.agent, self.number = agent, number
        self._channel, self._status = channel, status
        self.links: dict[int, RemoteRank] = {}
        self.addresses: dict[int, Address] = {}
        self._records: dict[int, tuple[RankRecord, float]] = {}
        self.closed = False
        self._sending = threading.Lock()

    def add(self, rank: int, where: str, number: int) -> RemoteRank:
        """The link of one of its ranks."""
        link = self.links[rank] = RemoteRank(self, rank, where, number)
        return link

    def fileno(self) -> int:
        """For poll."""
        return self._channel.fileno()

    @property
    def lost(self) -> str:
        """Why its host is lost; empty while it is not."""
        if not self.closed:
            return self.agent.lost()
        return self.agent.lost(LOST_S) or f"{self.agent.words} has given up its ranks"

    def await_spawned(self, limit_s: float) -> None:
        """Until its ranks have processes. PeerError: the host cannot start them, or is lost."""
        deadline = time.monotonic() + limit_s
        while not all(link.pid for link in self.links.values()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise PeerError(f"{self.agent.words} has started no ranks within {limit_s:g} s")
            try:
                self.take(left)
            except RankGoneError as error:
                raise PeerError(self.lost or f"{error.link.where} {error.link.fate()}") from error
            except TimeoutError:
                continue

    def take(self, timeout_s: float) -> tuple[RankLink, bytes]:
        """A frame of one of its ranks, and whose it is; while they start, the first rank with an empty frame stands for
        what the agent itself said. RankGoneError: a rank ended, or all of them are lost."""
        first = next(iter(self.links.values()))
        try:
            to, rest = parted(self._channel.receive(timeout_s))
        except ChannelClosed:
            self.closed = True
            raise RankGoneError(first) from None
        if to != COMMAND:
            return self._link(to), bytes(rest)
        message = read(from_session, rest, self.agent.words)
        if isinstance(message, Ended):
            link = self._link(message.rank)
            link.code, link.lacked_memory = message.code, message.out_of_memory
            self.heard(message.states)
            raise RankGoneError(link)
        if isinstance(message, Spawned):
            self.addresses = message.addresses
            for rank, pid in message.pids.items():
                self._link(rank).pid = pid
            return first, b""
        raise error_of(message.failure, self.agent.words)

    def _link(self, rank: int) -> RemoteRank:
        if rank not in self.links:
            raise PeerError(f"{self.agent.words} speaks of rank {rank}, which is not there")
        return self.links[rank]

    def read_all(self) -> None:
        """Takes what is there, each frame to its rank."""
        while not self.closed and self._channel.readable():
            try:
                link, frame = self.take(5.0)
            except (RankGoneError, TimeoutError):
                continue
            if frame and isinstance(link, RemoteRank):
                link.inbox.append(frame)

    def wait_for(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `done` by then, taking what comes."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.read_all()
            if done() or self.closed or time.monotonic() >= deadline:
                return done()
            time.sleep(0.005)

    def send(self, frame: bytes, timeout_s: float) -> None:
        """One frame of the session. TimeoutError, ChannelClosed."""
        with self._sending:
            self._channel.send(frame, timeout_s)

    def send_each(self, frames: Sequence[bytes], timeout_s: float) -> None:
        """To each rank of the host its own of the frames of all ranks, in one frame; equal ones are in it once."""
        ranks_of: dict[bytes, list[int]] = {}
        for rank in self.links:
            ranks_of.setdefault(frames[rank], []).append(rank)
        self.send(of_ranks(ranks_of), timeout_s)

    def say(self, message: ToSession) -> None:
        """To the agent itself; nothing where it is gone."""
        try:
            self.send(command(message), 5.0)
        except (PeerError, TimeoutError, OSError):
            return

    def hang_up(self) -> None:
        """Ends the connection, from any thread; the agent ends the ranks."""
        self._channel.shut()

    def close(self) -> None:
        """Ends the connection; safe to call twice."""
        self.closed = True
        self.agent.forget(self.number)
        self._channel.close()

    def heard(self, states: Sequence[RankState]) -> None:
        """What the agent says of its ranks; from the thread that reads control connections."""
        for state in states:
            if (link := self.links.get(state.rank)) is not None:
                link.suspended, link.processor_s = state.stopped, state.cpu_s
                self._status.take(state.rank, state.page)
                if state.record is not None:
                    self._records[state.rank] = (state.record, time.monotonic())

    def records(self) -> dict[int, RankRecord]:
        """The collective that each of its ranks was last in, as far as known; `seconds` until now."""
        now = time.monotonic()
        return {rank: _older(record, now - since) for rank, (record, since) in self._records.items()}


def _older(record: RankRecord, seconds: float) -> RankRecord:
    return RankRecord(
        record.rank,
        record.state,
        record.pid,
        record.kind,
        record.group,
        record.call,
        record.bytes,
        record.inside,
        record.seconds + seconds,
    )
