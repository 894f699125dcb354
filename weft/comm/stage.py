"""StageComm: the ranks of one pipeline stage as a world of their own, over the comm of all stages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weft.comm.base import Comm, Group


class StageComm(Comm):
    """Ranks count from 0 at the stage's first one, as row tables and boundaries count them. Peers of `send` and `recv`
    are ranks of other stages: they keep their numbers in the world."""

    def __init__(self, inner: Comm, stage_size: int) -> None:
        self.inner, self.world = inner, stage_size
        self.rank = inner.rank % stage_size
        self.first = inner.rank - self.rank

    def of_world(self, group: Group) -> Group:
        """The group in the world's numbers."""
        return tuple(self.first + rank for rank in group)

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        """As `Comm`."""
        return self.inner.all_reduce(x, self.of_world(group))

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        """As `Comm`."""
        self.inner.all_gather(x, outs, self.of_world(group))

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        """As `Comm`."""
        self.inner.reduce_scatter(xs, out, self.of_world(group))

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        """As `Comm`."""
        self.inner.all_to_all(xs, outs, self.of_world(group))

    def barrier(self, group: Group) -> None:
        """As `Comm`."""
        self.inner.barrier(self.of_world(group))

    def send(self, x: Tensor, peer: int) -> None:
        """As `Comm`."""
        self.inner.send(x, peer)

    def recv(self, out: Tensor, peer: int) -> None:
        """As `Comm`."""
        self.inner.recv(out, peer)

    def close(self) -> None:
        """As `Comm`."""
        self.inner.close()
