"""CommWrapper: a Comm that passes every call to another one, through one method that subclasses change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from weft.compute.comm.base import Comm, Group
from weft.compute.comm.shm.region import CollectiveKind as Kind

Run = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor | None]
"""Passes a call on with the tensors that it reads and those that it writes; an all_reduce returns the sum."""


class CommWrapper(Comm):
    """Base of wrappers; `inner` does the work."""

    def __init__(self, inner: Comm) -> None:
        self.inner = inner
        self.rank, self.world = inner.rank, inner.world

    def _call(self, kind: Kind, group: Group, ins: Sequence[Tensor], outs: Sequence[Tensor], run: Run) -> Tensor | None:
        """Makes the call; `outs` of an all_reduce is its tensor."""
        return run(ins, outs)

    def _inner_group(self, group: Group) -> Group:
        """A group as `inner` numbers its ranks."""
        return group

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        """Returns x where the call was left out."""
        theirs = self._inner_group(group)
        found = self._call(Kind.ALL_REDUCE, group, (x,), (x,), lambda ins, _: self.inner.all_reduce(ins[0], theirs))
        return x if found is None else found

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        theirs = self._inner_group(group)
        self._call(Kind.ALL_GATHER, group, (x,), outs, lambda ins, outs: self.inner.all_gather(ins[0], outs, theirs))

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        theirs = self._inner_group(group)
        self._call(
            Kind.REDUCE_SCATTER, group, xs, (out,), lambda ins, outs: self.inner.reduce_scatter(ins, outs[0], theirs)
        )

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        theirs = self._inner_group(group)
        self._call(Kind.ALL_TO_ALL, group, xs, outs, lambda ins, outs: self.inner.all_to_all(ins, outs, theirs))

    def barrier(self, group: Group) -> None:
        self._call(Kind.BARRIER, group, (), (), lambda *_: self.inner.barrier(self._inner_group(group)))

    def send(self, x: Tensor, peer: int) -> None:
        self._call(Kind.SEND, self._pair(peer), (x,), (), lambda ins, _: self.inner.send(ins[0], peer))

    def recv(self, out: Tensor, peer: int) -> None:
        self._call(Kind.RECV, self._pair(peer), (), (out,), lambda _, outs: self.inner.recv(outs[0], peer))

    def close(self) -> None:
        self.inner.close()

    def _pair(self, peer: int) -> Group:
        return min(self.rank, peer), max(self.rank, peer)


def received_bytes(kind: Kind, group: Group, outs: Sequence[Tensor], rank: int) -> int:
    """Bytes that a member receives from the others; an all_reduce counts as reduce_scatter and all_gather.

    `outs`: the tensors that the call writes on `rank`.
    """
    nbytes = [out.numel() * out.element_size() for out in outs]
    if kind is Kind.ALL_REDUCE:
        return 2 * nbytes[0] * (len(group) - 1) // len(group)
    if kind is Kind.REDUCE_SCATTER:
        return nbytes[0] * (len(group) - 1)
    if kind in (Kind.ALL_GATHER, Kind.ALL_TO_ALL):
        return sum(nbytes) - nbytes[group.index(rank)]
    return sum(nbytes)
