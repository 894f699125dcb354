"""RecordingComm: a Comm without peers. Calls return at once and are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from weft.compute.comm.base import Comm, Group
from weft.compute.comm.shm.region import CollectiveKind
from weft.compute.comm.wrapped import received_bytes

Call = tuple[str, Group, int]
"""One collective: its kind, its ranks, and the bytes that this rank receives from others, counted from the buffers of
the call. An all_reduce counts as reduce_scatter + all_gather over rows."""


@dataclass
class RecordingComm(Comm):
    """Nothing is exchanged: buffers keep what they hold. `own_rows`: how many rows of an all_reduced tensor are this
    rank's own, which the buffer alone does not say."""

    rank: int
    world: int
    own_rows: int = 0
    calls: list[Call] = field(default_factory=list)

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        self.record(CollectiveKind.ALL_REDUCE, group, (x,))
        return x

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        self.record(CollectiveKind.ALL_GATHER, group, outs)

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        self.record(CollectiveKind.REDUCE_SCATTER, group, (out,))

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        self.record(CollectiveKind.ALL_TO_ALL, group, outs)

    def barrier(self, group: Group) -> None:
        self.record(CollectiveKind.BARRIER, group, ())

    def send(self, x: Tensor, peer: int) -> None:
        self.record(CollectiveKind.SEND, (self.rank, peer), ())

    def recv(self, out: Tensor, peer: int) -> None:
        self.record(CollectiveKind.RECV, (peer, self.rank), (out,))

    def close(self) -> None:
        """Holds nothing."""

    def record(self, kind: CollectiveKind, group: Group, outs: Sequence[Tensor]) -> None:
        """Counts a call that writes `outs`: in an all_reduce addends of the own rows from each of the others, then the
        other members' rows."""
        if kind is CollectiveKind.ALL_REDUCE:
            rows = (len(group) - 1) * self.own_rows + outs[0].shape[0] - self.own_rows
            received = rows * outs[0].shape[1] * outs[0].element_size()
        else:
            received = received_bytes(kind, group, outs, self.rank)
        self.calls.append((kind.name.lower(), group, received))
