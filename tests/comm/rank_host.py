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
import sys
import time
from typing import Any

import torch
from comm_cases import groups_of
from rank_scenarios import SCENARIOS

from weft.comm.distributed.gloo import GlooComm, listen
from weft.comm.shm.region import Region, read_records
from weft.comm.shm.shared_memory import SharedMemoryComm

LIMIT = 200.0  # seconds for one job, whatever happens


class SharedMemory:
    """The parent's part of the shared memory backend."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.region = Region.create(
            job["world"], groups_of(job["world"]), piece_bytes=job["piece_bytes"], debug=job["debug"]
        )
        self.timeout = job["timeout"]

    def comm(self, rank: int) -> SharedMemoryComm:
        comm = SharedMemoryComm(self.region, rank, timeout=self.timeout)
        self.region.close()
        return comm

    def died(self, rank: int) -> None:
        self.region.mark_dead(rank)

    def finish(self) -> list[str]:
        records = [str(record) for record in read_records(self.region.fd)]
        self.region.close()
        return records


class Gloo:
    """The parent's part of gloo: the listening socket."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.socket = listen()
        self.job = job

    def comm(self, rank: int) -> GlooComm:
        world = self.job["world"]
        comm = GlooComm(
            rank,
            world,
            groups_of(world),
            port=self.socket.getsockname()[1],
            listen_fd=self.socket.fileno() if rank == 0 else None,
            timeout=self.job["timeout"],
            debug=self.job["debug"],
        )
        self.socket.close()
        return comm

    def died(self, rank: int) -> None:
        pass

    def finish(self) -> list[str]:
        self.socket.close()
        return []


def run_rank(backend: Any, rank: int, job: dict[str, Any], out: int) -> None:
    """In the child: the scenario, its outcome as JSON, and the end of the process."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    torch.set_num_threads(1)
    outcome: dict[str, Any] = {}
    comm = None
    try:
        comm = backend.comm(rank)
        outcome["value"] = SCENARIOS[job["scenario"]](comm, job["args"])
        comm.close()
    except BaseException as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    outcome["ended"] = time.monotonic()
    os.write(out, json.dumps(outcome).encode())
    os._exit(1 if "error" in outcome else 0)


def start(backend: Any, job: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """pidfd -> (rank, pipe) of the forked ranks."""
    ranks = {}
    for rank in range(job["world"]):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            run_rank(backend, rank, job, write)
        os.close(write)
        ranks[os.pidfd_open(pid)] = (rank, read)
    return ranks


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Forks, watches, marks the dead, collects."""
    backend = {"shared_memory": SharedMemory, "gloo": Gloo}[job["backend"]](job)
    ranks = start(backend, job)
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
            told = os.read(pipe, 1 << 20)
            outcomes[rank] = json.loads(told) if told else {"signal": status.si_status, "ended": time.monotonic()}
            if status.si_status:
                backend.died(rank)
                first_death = first_death or outcomes[rank]["ended"]
    for fd, (_, pipe) in ranks.items():
        os.close(fd)
        os.close(pipe)
    for outcome in outcomes.values():
        outcome["after"] = outcome.pop("ended") - (first_death or 0.0)
    return {"ranks": [outcomes[rank] for rank in range(job["world"])], "records": backend.finish()}


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run_job(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
