"""RanksSession: one set of ranks of this host, in a thread: passes frames on, and says when a rank ends."""

from __future__ import annotations

import select
import threading
from collections.abc import Sequence
from contextlib import suppress

from weft.base.errors import PeerError, WeftError
from weft.base.log import get_logger
from weft.compute.comm.backend import CommSpec, HostSite, Rendezvous
from weft.compute.comm.groups import groups_of
from weft.compute.comm.mailboxes import mailboxes_of
from weft.compute.comm.registry import backend_named
from weft.parallel.arch.shards import Shards
from weft.runtime.agent.waker import Waker
from weft.runtime.ipc.channel import Channel, ChannelClosed
from weft.runtime.ipc.messages import PeerAddresses, failure_of, pack
from weft.runtime.ipc.status import StatusPage
from weft.runtime.supervisor.hosts.host_messages import (
    COMMAND,
    EACH,
    AllMet,
    BeginRanks,
    Ended,
    FromSession,
    MarkDead,
    MeetAt,
    RankState,
    SessionFailed,
    Spawned,
    addressed,
    command,
    parted,
    parts_of,
    read,
    to_session,
)
from weft.runtime.supervisor.link import end_all
from weft.runtime.supervisor.processes import FRAME_S, Spawner, WorkerProcess
from weft.runtime.supervisor.setups import setup_of

_log = get_logger(__name__)
_SEND_S = 30.0


class RanksSession:
    """`channel`: the session's connection to host 0, whose end ends the ranks. `checkpoint`: the tensor table of this
    host's files. The ranks are tied to the thread."""

    def __init__(
        self,
        channel: Channel,
        begin: BeginRanks,
        site: HostSite,
        checkpoint: bytes,
        token: bytes,
        spawner: Spawner,
        waker: Waker,
    ) -> None:
        self._channel, self._begin, self._site, self._waker = channel, begin, site, waker
        self._checkpoint, self._token, self._spawner = checkpoint, token, spawner
        self.first_rank = begin.world.first_rank
        self._workers: dict[int, WorkerProcess] = {}
        self._status = StatusPage.create(begin.world.layout.world)
        self._meeting: Rendezvous | None = None
        self._looking = threading.Lock()
        """Held while page and records are read, and while they are closed."""
        self._thread = threading.Thread(target=self._run, name=f"session {begin.session}", daemon=True)

    def start(self) -> None:
        """Starts the thread, which starts the ranks."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its ranks may run."""
        return self._thread.is_alive()

    def running(self) -> dict[int, int]:
        """Number among all ranks -> pid, of those of its ranks that run."""
        return {worker.number: worker.pid for worker in list(self._workers.values()) if worker.fate() is None}

    def hang_up(self) -> None:
        """Ends the connection, and with it the ranks."""
        self._channel.shut()
        for worker in list(self._workers.values()):
            worker.kill()

    def end(self) -> None:
        """Waits until the ranks have ended."""
        self.hang_up()
        if self._thread.ident is not None:
            self._thread.join()

    def states(self) -> list[RankState]:
        """Of its ranks."""
        with self._looking:
            if self._status.fd < 0:
                return []
            records = () if self._meeting is None else self._meeting.records()
            return [
                RankState(
                    rank, self._status.aged(rank), worker.stopped(), records[rank] if records else None, worker.cpu_s()
                )
                for rank, worker in list(self._workers.items())
            ]

    def _run(self) -> None:
        try:
            self._open()
            self._relay()
        except ChannelClosed:
            _log.debug("host 0 has ended the session")
        except Exception as error:  # whatever it is, host 0 must hear of it
            if not isinstance(error, WeftError):
                _log.exception("unexpected error of a session")
            self._say(SessionFailed(failure_of(error)))
        finally:
            end_all(list(self._workers.values()))
            with self._looking:
                self._status.close()
                if self._meeting is not None:
                    self._meeting.close()
            self._channel.close()

    def _open(self) -> None:
        """Processes, and where their ranks listen; setups follow when host 0 knows that of all."""
        world = self._begin.world
        shards, backend = Shards(world.config, world.layout, world.slot_maps), backend_named(world.comm)
        own_cores = all(share.cpus for share in self._begin.ranks.values())
        mail = mailboxes_of(shards, world.engine)
        spec = CommSpec(world.layout.world, groups_of(shards), own_cores, world.comm_debug, self._site, mail)
        self._meeting = backend.meet(spec)
        for rank in self._begin.ranks:
            self._workers[rank] = self._spawner.spawn(
                rank,
                world.where[rank],
                number=world.first_rank + rank,
                status_fd=self._status.fd,
                inherit=self._meeting.fds(rank),
                by_signal=True,
            )
        pids = {rank: worker.pid for rank, worker in self._workers.items()}
        self._say(Spawned(pids, self._meeting.addresses()))

    def _relay(self) -> None:
        poll, by_fd = select.poll(), {}
        poll.register(self._channel, select.POLLIN)
        for worker in self._workers.values():
            for fd in worker.fds():
                by_fd[fd] = worker
                poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                self._waker.passed()
                if fd == self._channel.fileno():
                    self._pass_down()
                elif (from_rank := by_fd.get(fd)) is not None and self._pass_up(from_rank, fd):
                    for each in from_rank.fds():
                        del by_fd[each]
                        poll.unregister(each)

    def _pass_down(self) -> None:
        to, rest = parted(self._channel.receive(FRAME_S))
        if to == COMMAND:
            self._obey(rest)
            return
        for ranks, part in parts_of(rest) if to == EACH else [([to], bytes(rest))]:
            for rank in ranks:
                if rank not in self._workers:
                    raise PeerError(f"host 0 sent a frame for rank {rank}, which is not on this host")
                with suppress(ChannelClosed):  # its end is reported by its pidfd
                    self._workers[rank].channel.send(part, _SEND_S)

    def _obey(self, frame: memoryview) -> None:
        message = read(to_session, frame, "host 0")
        if isinstance(message, MeetAt):
            self._set_up(PeerAddresses(message.addresses, self._token, self._site.address))
        elif isinstance(message, MarkDead) and self._meeting is not None:
            for rank in message.ranks:
                self._meeting.mark_dead(rank)
        elif isinstance(message, AllMet) and self._meeting is not None:
            self._meeting.met()

    def _set_up(self, peers: PeerAddresses) -> None:
        for rank, share in self._begin.ranks.items():
            setup = setup_of(self._begin.world, rank, share, self._checkpoint, peers)
            with suppress(ChannelClosed):
                self._workers[rank].channel.send(pack(setup), _SEND_S)

    def _pass_up(self, worker: WorkerProcess, fd: int) -> bool:
        """A frame of a rank goes to host 0, or that it has ended; whether it has."""
        if fd != worker.pidfd:
            try:
                frame = worker.channel.receive(FRAME_S)
            except ChannelClosed:
                frame = None
            if frame is not None:
                self._channel.send(addressed(worker.rank, frame), _SEND_S)
                return False
        for frame in _rest(worker):
            self._channel.send(addressed(worker.rank, frame), _SEND_S)
        worker.wait(FRAME_S)
        code = worker.exit_code()
        if self._meeting is not None:
            self._meeting.mark_dead(worker.rank)
        self._say(Ended(worker.rank, -9 if code is None else code, self.states(), worker.out_of_memory()))
        return True

    def _say(self, message: FromSession) -> None:
        with suppress(PeerError, TimeoutError, OSError):
            self._channel.send(command(message), _SEND_S)


def _rest(worker: WorkerProcess) -> Sequence[bytes]:
    """What a rank said before it ended."""
    found: list[bytes] = []
    with suppress(ChannelClosed, TimeoutError):
        while worker.channel.readable():
            found.append(worker.channel.receive(1.0))
    return found
