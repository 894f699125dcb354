"""A rank's end of the chosen collectives. Imports torch, so only ranks use it."""

from __future__ import annotations

from collections.abc import Sequence

from weft.arch.shards import Shards
from weft.comm.backend import groups_of
from weft.comm.base import Comm
from weft.comm.distributed.gloo import GlooComm
from weft.comm.lockstep import LockstepWorld
from weft.comm.shm.region import Region
from weft.comm.shm.shared_memory import SharedMemoryComm
from weft.comm.staged import StagedComm
from weft.ipc.messages import Setup
from weft.ipc.status import StatusWriter
from weft.worker.comm_wrappers import FaultyComm, RecordedComm
from weft.worker.faults import Faults


def make_comm(setup: Setup, shards: Shards, status: StatusWriter, faults: Faults, fds: Sequence[int]) -> Comm:
    """Returns when the others are there. `fds`: what the rank was handed for it. PeerError: somebody did not come."""
    comm = _plain_comm(setup, shards, fds)
    if setup.comm == "gloo":
        comm = RecordedComm(comm, status, groups_of(shards))
    comm = FaultyComm(comm, faults) if faults.at("collective") else comm
    return StagedComm(comm) if setup.engine.device != "cpu" and comm.world > 1 else comm


def _plain_comm(setup: Setup, shards: Shards, fds: Sequence[int]) -> Comm:
    limit_s = setup.comm_limit_s
    if setup.comm == "shared_memory":
        return SharedMemoryComm(Region(fds[0], setup.comm_bytes), setup.rank, timeout=limit_s)
    if setup.comm == "gloo":
        return GlooComm(
            setup.rank,
            setup.layout.world,
            groups_of(shards),
            port=setup.comm_port,
            listen_fd=fds[0] if setup.rank == 0 else None,
            timeout=limit_s,
            debug=setup.comm_debug,
        )
    # A single rank calls no collective: any backend's end will do.
    return LockstepWorld(1, ()).comms[0]
