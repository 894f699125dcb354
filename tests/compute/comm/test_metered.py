"""The meter around a backend: results pass through, bytes are those that came from others."""

from __future__ import annotations

from functools import partial

import torch

from weft.compute.comm.base import Comm
from weft.compute.comm.lockstep import LockstepWorld
from weft.compute.comm.metered import MeteredComm

GROUP = (0, 1, 2)
ROW = 4 * 8


def work(comm: MeteredComm, _: Comm) -> list[int]:
    received = []

    def note() -> None:
        received.append(comm.received)

    x = torch.full((6, 8), float(comm.rank))
    assert torch.equal(comm.all_reduce(x.clone(), GROUP), torch.full((6, 8), 3.0))
    note()
    outs = [torch.empty(count, 8) for count in (1, 2, 0)]
    comm.all_gather(x[: len(outs[comm.rank])].contiguous(), outs, GROUP)
    note()
    parts, out = [torch.ones(count, 8) for count in (1, 2, 3)], torch.empty(comm.rank + 1, 8)
    comm.reduce_scatter(parts, out, GROUP)
    assert torch.equal(out, torch.full_like(out, 3.0))
    note()
    comm.all_to_all([torch.ones(2, 8)] * 3, [torch.empty(2, 8) for _ in GROUP], GROUP)
    note()
    comm.barrier(GROUP)
    note()
    return received


def test_bytes_from_others_are_counted() -> None:
    world = LockstepWorld(3, (GROUP,))
    meters = [MeteredComm(comm) for comm in world.comms]
    found = world.run([partial(work, meter) for meter in meters])
    for rank, received in enumerate(found):
        steps = [after - before for before, after in zip([0, *received], received, strict=False)]
        gathered = 3 - (1, 2, 0)[rank]
        assert steps == [2 * 6 * ROW * 2 // 3, gathered * ROW, 2 * (rank + 1) * ROW, 4 * ROW, 0]
        assert meters[rank].seconds_ns > 0
        meters[rank].close()
