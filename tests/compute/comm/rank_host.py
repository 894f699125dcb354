"""A small process that forks ranks on request: one `import torch` for all worlds of the tests, and no thread at fork.

A line of JSON in: {scenario, backend, world, args, timeout, debug, piece_bytes}. A line out: per rank its value, its
error or its signal, the seconds from the first death to each rank's end, and the shared region's records.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import torch

from tests.compute.comm.comm_cases import groups_of
from tests.compute.comm.rank_scenarios import SCENARIOS
from weft.compute.comm.backend import Backend, CommSpec, RankEnd, Rendezvous
from weft.compute.comm.distributed.handshake import TOKEN_BYTES, LinkToken
from weft.compute.comm.distributed.links import connect_all, listen
from weft.compute.comm.registry import backend_named
from weft.compute.comm.shm.backend import SharedMemory, SharedRegion
from weft.compute.comm.shm.region import Region
from weft.compute.comm.shm.shared_memory import SharedMemoryComm
from weft.parallel.layout.ranks import Group

LIMIT = 200.0  # seconds for one job, whatever happens


class TcpMeeting(SharedRegion):
    """A region, and a listening socket for each rank."""

    def __init__(self, region: Region, groups: tuple[Group, ...], world: int) -> None:
        super().__init__(region, groups)
        self._listeners = [listen("127.0.0.1") for _ in range(world)]

    def fds(self, rank: int) -> tuple[int, ...]:
        return (*super().fds(rank), *(listener.fileno() for listener in self._listeners))

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        super().close()


class OverTcp:
    """Every `per_host` neighbours are a host of their own: connected to the others, and sharing memory inside."""

    start = LinkToken(1, b"t" * TOKEN_BYTES)

    def __init__(self, name: str, per_host: int) -> None:
        self.name, self.keeps_records, self._per_host = name, True, per_host

    def why_not(self, world: int, hosts: int, device: str) -> str:
        return ""

    def host_of(self, world: int) -> list[int]:
        return [rank // self._per_host for rank in range(world)]

    def meet(self, spec: CommSpec) -> Rendezvous:
        world, groups = spec.world, spec.groups
        region = Region.create(world, groups, piece_bytes=4096, debug=spec.debug, host_of=self.host_of(world))
        return TcpMeeting(region, groups, world)

    def make(self, end: RankEnd) -> SharedMemoryComm:
        listeners = [socket.socket(fileno=os.dup(fd)) for fd in end.fds[1:]]
        addresses = {peer: one.getsockname() for peer, one in enumerate(listeners) if peer != end.rank}
        links = connect_all(end.rank, addresses, listeners[end.rank], self.start, 30.0)
        comm = SharedMemoryComm(Region.of_fd(end.fds[0]), end.rank, timeout=end.limit_s)
        comm.connect(links, self.host_of(end.world))
        for listener in listeners:
            listener.close()
        return comm


OVER_TCP = {each.name: each for each in (OverTcp("tcp", 1), OverTcp("tcp_pairs", 2), OverTcp("tcp_threes", 3))}


def backend_of(job: dict[str, Any]) -> Backend:
    """The one of that name; shared memory with pieces of the job's size."""
    if job["backend"] in OVER_TCP:
        return OVER_TCP[job["backend"]]
    return SharedMemory(job["piece_bytes"]) if job["backend"] == "shared_memory" else backend_named(job["backend"])


def run_rank(meeting: Rendezvous, rank: int, job: dict[str, Any], out: int) -> None:
    """In the child: the scenario, its outcome as JSON, and the end of the process."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    torch.set_num_threads(1)
    outcome: dict[str, Any] = {}
    comm = None
    try:
        world, fds = job["world"], meeting.fds(rank)
        comm = backend_of(job).make(RankEnd(rank, world, groups_of(world), fds, job["timeout"], job["debug"]))
        meeting.close()
        outcome["value"] = SCENARIOS[job["scenario"]](comm, job["args"])
        comm.close()
    except BaseException as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    outcome["ended"] = time.monotonic()
    os.write(out, json.dumps(outcome).encode())
    os._exit(1 if "error" in outcome else 0)


def start(meeting: Rendezvous, job: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """pidfd -> (rank, pipe) of the forked ranks."""
    ranks = {}
    for rank in range(job["world"]):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            run_rank(meeting, rank, job, write)
        os.close(write)
        ranks[os.pidfd_open(pid)] = (rank, read)
    return ranks


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Forks, watches, marks the dead, collects."""
    world = job["world"]
    meeting = backend_of(job).meet(CommSpec(world, groups_of(world), debug=job["debug"]))
    ranks = start(meeting, job)
    outcomes: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + LIMIT
    first_death = None
    while len(outcomes) < job["world"]:
        waiting = [fd for fd, (rank, _) in ranks.items() if rank not in outcomes]
        if len(waiting) <= job["stopped"]:
            deadline = 0.0
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        for fd in ready or waiting:
            rank, pipe = ranks[fd]
            if fd not in ready:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            status = os.waitid(os.P_PIDFD, fd, os.WEXITED)
            assert status is not None
            written = os.read(pipe, 1 << 20)
            outcomes[rank] = json.loads(written) if written else {"signal": status.si_status, "ended": time.monotonic()}
            if status.si_status:
                meeting.mark_dead(rank)
                first_death = first_death or outcomes[rank]["ended"]
    for fd, (_, pipe) in ranks.items():
        os.close(fd)
        os.close(pipe)
    for outcome in outcomes.values():
        outcome["after"] = outcome.pop("ended") - (first_death or 0.0)
    records = [str(record) for record in meeting.records()]
    meeting.close()
    return {"ranks": [outcomes[rank] for rank in range(job["world"])], "records": records}


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run_job(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
