"""A rank's setup: what all ranks have in common, and what its own host adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.base import env
from weft.base.machine.cores import CoreShare
from weft.runtime.ipc.messages import PeerAddresses, Setup, WorldSetup


def setup_of(world: WorldSetup, rank: int, share: CoreShare, checkpoint: bytes, peers: PeerAddresses) -> Setup:
    """For a rank of this host. `checkpoint`: the tensor table of this host's own files."""
    first = world.host_of[rank] * world.ranks_per_host
    return Setup(
        rank=rank,
        world=world,
        checkpoint=checkpoint,
        cpus=list(share.cpus),
        threads=share.threads,
        yields_core=bool(share.yielded),
        local=world.first_rank + rank - first,
        peers=peers,
        environ=env.own() | ({"WEFT_NATIVE_ISA": world.isa} if world.isa else {}),
    )


def eager_for_all(where: Sequence[str], reasons: Mapping[int, str]) -> str:
    """The first rank without a step program, with its reason, if other ranks have one; else "".

    `reasons[rank]`: why it has none, empty if it has one. A program and an eager step meet in different exchanges, so
    all ranks have to run the same form.
    """
    without = [rank for rank in sorted(reasons) if reasons[rank]]
    if not without or len(without) == len(reasons):
        return ""
    return f"{where[without[0]]} has no step program: {reasons[without[0]]}"
