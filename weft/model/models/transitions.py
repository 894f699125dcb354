"""Transitions: runs a boundary's collectives on real rows. The only place in the model code that holds a `Comm`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from weft.base.errors import PeerError
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.redistribute import redistribute
from weft.parallel.layout.boundaries import Boundary
from weft.parallel.layout.pipeline_p2p import PipelineTransfer
from weft.parallel.layout.rows import RowTable
from weft.parallel.layout.transition import Step, transition


class Transitions:
    """One rank's boundaries, and its end of the collectives."""

    def __init__(self, boundaries: Mapping[str, Boundary], comm: Comm) -> None:
        self.boundaries, self.comm = boundaries, comm

    def move(self, name: str, x: Tensor, table: RowTable) -> Tensor:
        """x across the boundary `name`; `table`: the rows that move, of every rank of the stage."""
        return self.run(name, self.boundaries[name].steps, x, table)

    def move_columns(self, name: str, x: Tensor, table: RowTable) -> Tensor:
        """As `move`, for x that may have another width than the boundary says (sampled ids with log-probabilities)."""
        boundary = self.boundaries[name]
        return self.run(name, transition(boundary.src, boundary.dst, x.shape[1]), x, table)

    def run(self, name: str, steps: tuple[Step, ...], x: Tensor, table: RowTable) -> Tensor:
        """The steps of the boundary `name`."""
        with _naming(name):
            return redistribute(x, steps, table, self.comm.rank, self.comm)

    def send(self, transfer: PipelineTransfer, x: Tensor, peer: int) -> None:
        """x to `peer`, a rank of the world in the stage that takes the transfer."""
        with _naming(transfer.name):
            self.comm.send(x.contiguous(), peer)

    def receive(self, transfer: PipelineTransfer, out: Tensor, peer: int) -> Tensor:
        """What `peer` sent; may be `out`."""
        with _naming(transfer.name):
            self.comm.recv(out, peer)
        return out

    def gather(self, name: str, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        """outs[i] = x of the group's member i, as the exchange `name`."""
        with _naming(name):
            self.comm.all_gather(x.contiguous(), outs, group)

    def exchange(self, name: str, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        """The exchange `name`: xs[i] goes to the group's member i, outs[i] comes from it."""
        if len(group) == 1:
            outs[0].copy_(xs[0])
            return
        with _naming(name):
            self.comm.all_to_all(xs, outs, group)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """A collective that fails says whose it is."""
    try:
        yield
    except PeerError as error:
        error.module = name
        raise
