"""StagedComm: another backend for tensors on a device, whose bytes go through the host's memory.

The sums are the backend's, on the host: a layout gives the same bits wherever its ranks compute. Several ranks may
share a device. It waits for the device at every collective, which is slow beside links between devices.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weft.comm.base import Comm, Group


class StagedComm(Comm):
    """`inner` takes tensors on the host."""

    def __init__(self, inner: Comm) -> None:
        self._inner = inner
        self.rank, self.world = inner.rank, inner.world

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        """As `Comm`."""
        return x.copy_(self._inner.all_reduce(x.cpu(), group))

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        """As `Comm`."""
        here = _like(outs)
        self._inner.all_gather(x.cpu(), here, group)
        _give(here, outs)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        """As `Comm`."""
        here = _like([out])
        self._inner.reduce_scatter([x.cpu() for x in xs], here[0], group)
        _give(here, [out])

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        """As `Comm`."""
        here = _like(outs)
        self._inner.all_to_all([x.cpu() for x in xs], here, group)
        _give(here, outs)

    def barrier(self, group: Group) -> None:
        """As `Comm`."""
        self._inner.barrier(group)

    def send(self, x: Tensor, peer: int) -> None:
        """As `Comm`."""
        self._inner.send(x.cpu(), peer)

    def recv(self, out: Tensor, peer: int) -> None:
        """As `Comm`."""
        here = _like([out])
        self._inner.recv(here[0], peer)
        _give(here, [out])

    def close(self) -> None:
        """As `Comm`."""
        self._inner.close()


def _like(outs: Sequence[Tensor]) -> list[Tensor]:
    """Memory of the host for each."""
    return [out.new_empty(out.shape, device="cpu") for out in outs]


def _give(here: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
    for mine, out in zip(here, outs, strict=True):
        out.copy_(mine)
