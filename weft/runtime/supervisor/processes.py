"""Worker processes: started with what they may inherit and nothing else, watched by pidfd, ended and reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from weft.base.env import DIST_SECRET
from weft.base.machine.control_groups import oom_kills
from weft.base.machine.interpreter import finding_weft, runs
from weft.runtime.ipc.channel import Channel, ChannelClosed, channel_pair
from weft.runtime.supervisor.link import RankGoneError, SendFrames, fate_of

DEFAULT_PROGRAM = runs("weft.runtime.worker.main")

_QUIET = {"GOMP_SPINCOUNT": "2000", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""A few microseconds: a thread that spins longer at the end of a parallel loop takes the core of one that still works
(with one core too few, 9 s of work took 30 s). torch's warnings about a peer that is gone would bury the line that
names it. The user's own settings win."""

FRAME_S = 30.0
"""A rank that began a frame must end it within this."""

_FEW = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Until the rank sets torch's number of threads."""


@dataclass(slots=True)
class WorkerProcess:
    """One rank's process on this host, a `RankLink`. `rank`: among those that it shares collectives with; `number`:
    among those of all replicas;
    `where`: the latter and its coordinates, for people."""

    rank: int
    where: str
    process: subprocess.Popen[bytes]
    pidfd: int
    channel: Channel
    lifeline: int
    """Write end of the pipe whose closing ends the child."""
    number: int
    oom_kills_before: int = field(default_factory=oom_kills)
    """Out-of-memory kills that were counted when it got its rank."""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def fate(self) -> str | None:
        """How it ended: 'was killed by SIGKILL', 'ended with exit code 70'; None while it lives."""
        code = self.process.poll()
        return None if code is None else fate_of(code)

    def stopped(self) -> bool:
        """As of `RankLink`."""
        return is_stopped(self.pid)

    def out_of_memory(self) -> bool:
        """As of `RankLink`."""
        return self.process.poll() == -signal.SIGKILL and oom_kills() > self.oom_kills_before

    def cpu_s(self) -> float:
        """As of `RankLink`."""
        return cpu_seconds(self.pid)

    @property
    def lost_host(self) -> str:
        """As of `RankLink`: this host is here."""
        return ""

    def fds(self) -> tuple[int, int]:
        """As of `RankLink`."""
        return self.channel.fileno(), self.pidfd

    def take(self, fd: int, timeout_s: float) -> tuple[WorkerProcess, bytes]:
        """As of `RankLink`."""
        if fd == self.pidfd:
            raise RankGoneError(self)
        try:
            return self, self.channel.receive(timeout_s)
        except ChannelClosed as error:
            raise RankGoneError(self) from error

    def waiting(self) -> bytes | None:
        """As of `RankLink`."""
        return self.channel.receive(FRAME_S) if self.channel.readable() else None

    def send(self, frame: bytes, timeout_s: float) -> None:
        """As of `RankLink`."""
        self.channel.send(frame, timeout_s)

    def sender(self) -> tuple[object, SendFrames]:
        """As of `RankLink`."""
        return self.rank, self._send_own

    def _send_own(self, frames: Sequence[bytes], timeout_s: float) -> None:
        self.channel.send(frames[self.rank], timeout_s)

    def exit_code(self) -> int | None:
        """As of `RankLink`."""
        return self.process.poll()

    def wait(self, timeout_s: float) -> bool:
        """As of `RankLink`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        return self.process.poll() is not None

    def kill(self) -> None:
        """As of `RankLink`."""
        if self.process.poll() is None:
            self.process.kill()

    def release(self) -> None:
        """As of `RankLink`."""
        self.process.wait(timeout=60)
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            os.close(self.lifeline)
            self.pidfd = self.lifeline = -1


@dataclass(slots=True)
class _Begun:
    """A process that has no rank yet."""

    process: subprocess.Popen[bytes]
    channel: Channel
    lifeline: int

    def end(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        self.channel.close()
        os.close(self.lifeline)


class Spawner:
    """Starts `program CONTROL_FD LIFELINE_FD PARENT_PID BY_SIGNAL`, once for each worker.

    Some can be started ahead, before the plan is known; they import meanwhile what all ranks need.
    """

    def __init__(self, program: Sequence[str] = DEFAULT_PROGRAM) -> None:
        self._program = program
        self._ahead: list[_Begun] = []
        self._lock = threading.Lock()
        """Replicas spawn their ranks side by side."""

    def start_ahead(self, workers: int = 1) -> None:
        """Processes of the first `workers`, less those that wait already. They must be spawned, or `close` called."""
        with contextlib.suppress(OSError):  # `spawn` raises the error again
            while len(self._ahead) < workers:
                self._ahead.append(self._begin(None))

    def close(self) -> None:
        """Ends processes that were started ahead, if no worker has become of them."""
        while begun := self._taken():
            begun.end()

    def spawn(
        self,
        rank: int,
        where: str,
        *,
        number: int | None = None,
        status_fd: int,
        inherit: Sequence[int] = (),
        by_signal: bool | None = None,
    ) -> WorkerProcess:
        """A worker, which is handed `status_fd` and then those of `inherit`.

        `by_signal`: the child is killed when the calling thread ends, so only for a thread that outlives the child;
        None: where this is the main thread.
        """
        begun = self._taken()
        if begun is not None and begun.process.poll() is not None:
            begun.end()
            begun = None
        if begun is None:
            begun = self._begin(by_signal)
        try:
            pidfd = os.pidfd_open(begun.process.pid)
        except OSError:
            begun.end()
            raise
        with contextlib.suppress(ChannelClosed):  # the wait for the worker reports how it ended
            begun.channel.send_fds((status_fd, *inherit))
        return WorkerProcess(
            rank,
            where,
            begun.process,
            pidfd,
            begun.channel,
            begun.lifeline,
            rank if number is None else number,
        )

    def _taken(self) -> _Begun | None:
        with self._lock:
            return self._ahead.pop(0) if self._ahead else None

    def _begin(self, by_signal: bool | None) -> _Begun:
        """In a process group of its own: Ctrl-C in a terminal reaches the supervisor alone, which ends the ranks."""
        channel, theirs = channel_pair()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        if by_signal is None:
            by_signal = threading.current_thread() is threading.main_thread()
        fds = (theirs.fileno(), read_end)
        arguments = [*self._program, *map(str, fds), str(os.getpid()), "1" if by_signal else "0"]
        environment = finding_weft(_QUIET | os.environ | _FEW)
        environment.pop(DIST_SECRET, None)
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, pass_fds=fds, env=environment, process_group=0
            )
        except OSError:
            channel.close()
            os.close(write_end)
            raise
        finally:
            theirs.close()
            os.close(read_end)
        return _Begun(process, channel, write_end)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process of this host; 0 where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
    except (OSError, ValueError):
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def is_stopped(pid: int) -> bool:
    """Whether a process of this host is suspended (SIGSTOP)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
