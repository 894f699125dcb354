"""A rank's end where ranks are on several hosts: shared memory inside its host, proven connections to the others."""

from __future__ import annotations

import os
import socket

from weft.base.errors import PeerError
from weft.compute.comm.backend import RankEnd
from weft.compute.comm.base import Comm
from weft.compute.comm.distributed.handshake import LinkToken
from weft.compute.comm.distributed.links import connect_all
from weft.compute.comm.shm.region import Region, State, read_records
from weft.compute.comm.shm.shared_memory import SharedMemoryComm


def make(end: RankEnd) -> Comm:
    """For `Tcp.make`: over the region and the listening socket that were inherited."""
    region_fd, listener_fd = end.fds
    comm = SharedMemoryComm(Region.of_fd(region_fd), end.rank, timeout=end.limit_s)
    across = [group for group in end.groups if end.rank in group and len({end.host_of[peer] for peer in group}) > 1]
    addresses = {peer: end.peers[peer] for peer in sorted(set().union(*across) - {end.rank})}

    def alive() -> None:
        for record in read_records(region_fd):
            if record.state is State.DEAD and record.rank != end.rank:
                raise PeerError(f"rank {record.rank} died; rank {end.rank} was connecting to ranks of other hosts")

    with socket.socket(fileno=os.dup(listener_fd)) as listener:
        links = connect_all(end.rank, addresses, listener, LinkToken(0, end.token), end.meet_limit_s, alive)
    comm.connect(links, end.host_of)
    return comm
