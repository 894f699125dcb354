"""MeteredComm: another backend, with the time spent in its collectives and the bytes received added up."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from weft.compute.comm.base import Comm, Group
from weft.compute.comm.shm.region import CollectiveKind
from weft.compute.comm.wrapped import CommWrapper, Run, received_bytes


class MeteredComm(CommWrapper):
    """`seconds_ns`: inside collectives, waiting for peers included. `received`: bytes from other ranks. Costs two looks
    at a clock for each collective."""

    def __init__(self, inner: Comm) -> None:
        super().__init__(inner)
        self.seconds_ns = 0
        self.stage_wait_ns = 0
        """Of these, in messages of other pipeline stages."""
        self.received = 0

    def count(self, nanoseconds: int, for_stages: int, received: int) -> None:
        """Adds what went past this object."""
        self.seconds_ns += nanoseconds
        self.stage_wait_ns += for_stages
        self.received += received

    def _call(
        self, kind: CollectiveKind, group: Group, ins: Sequence[Tensor], outs: Sequence[Tensor], run: Run
    ) -> Tensor | None:
        began = time.perf_counter_ns()
        found = run(ins, outs)
        took = time.perf_counter_ns() - began
        message = kind in (CollectiveKind.SEND, CollectiveKind.RECV)
        self.count(took, took if message else 0, received_bytes(kind, group, outs, self.rank))
        return found
