"""MeteredComm: another backend, with the time spent in its collectives and the bytes received added up."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from weft.comm.base import Comm, Group


class MeteredComm(Comm):
    """`seconds_ns`: inside collectives, waiting for peers included. `received`: bytes from other ranks; an all_reduce
    counts as reduce_scatter and all_gather. Costs two looks at a clock for each collective."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self.rank, self.world = comm.rank, comm.world
        self.seconds_ns = 0
        self.stage_wait_ns = 0
        """Of these, in messages of other pipeline stages."""
        self.received = 0

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        """As `Comm`."""
        began = time.perf_counter_ns()
        out = self._comm.all_reduce(x, group)
        self._count(began, 2 * x.nbytes * (len(group) - 1) // len(group))
        return out

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        """As `Comm`."""
        began = time.perf_counter_ns()
        self._comm.all_gather(x, outs, group)
        self._count(began, sum(out.nbytes for out in outs) - x.nbytes)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        """As `Comm`."""
        began = time.perf_counter_ns()
        self._comm.reduce_scatter(xs, out, group)
        self._count(began, out.nbytes * (len(group) - 1))

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        """As `Comm`."""
        began = time.perf_counter_ns()
        self._comm.all_to_all(xs, outs, group)
        self._count(began, sum(out.nbytes for out in outs) - outs[group.index(self.rank)].nbytes)

    def barrier(self, group: Group) -> None:
        """As `Comm`."""
        began = time.perf_counter_ns()
        self._comm.barrier(group)
        self._count(began, 0)

    def send(self, x: Tensor, peer: int) -> None:
        """As `Comm`."""
        began = time.perf_counter_ns()
        self._comm.send(x, peer)
        self._count_message(began, 0)

    def recv(self, out: Tensor, peer: int) -> None:
        """As `Comm`."""
        began = time.perf_counter_ns()
        self._comm.recv(out, peer)
        self._count_message(began, out.nbytes)

    @property
    def inner(self) -> Comm:
        """The backend."""
        return self._comm

    def count(self, nanoseconds: int, for_stages: int, received: int) -> None:
        """Adds what went past this object."""
        self.seconds_ns += nanoseconds
        self.stage_wait_ns += for_stages
        self.received += received

    def close(self) -> None:
        """As `Comm`."""
        self._comm.close()

    def _count_message(self, began: int, received: int) -> None:
        self.stage_wait_ns += time.perf_counter_ns() - began
        self._count(began, received)

    def _count(self, began: int, received: int) -> None:
        self.seconds_ns += time.perf_counter_ns() - began
        self.received += received
