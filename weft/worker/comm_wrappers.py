"""Wrappers around a rank's end of the collectives: a record for backends that keep none, and faults for tests.

Each hands every call on as it is; `FaultyComm` only until its fault is due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from weft.comm.base import Comm, Group
from weft.comm.shm.region import CollectiveKind
from weft.ipc.status import StatusWriter
from weft.worker.faults import Action, Faults


class _Around(Comm):
    """Hands every call to `inner` through `_call`, with the tensors that it writes to."""

    def __init__(self, inner: Comm) -> None:
        self._inner = inner
        self.rank, self.world = inner.rank, inner.world

    def all_reduce(self, x: Tensor, group: Group) -> Tensor:
        self._call(CollectiveKind.ALL_REDUCE, group, (x,), lambda: self._inner.all_reduce(x, group))
        return x

    def all_gather(self, x: Tensor, outs: Sequence[Tensor], group: Group) -> None:
        self._call(CollectiveKind.ALL_GATHER, group, outs, lambda: self._inner.all_gather(x, outs, group))

    def reduce_scatter(self, xs: Sequence[Tensor], out: Tensor, group: Group) -> None:
        self._call(CollectiveKind.REDUCE_SCATTER, group, (out,), lambda: self._inner.reduce_scatter(xs, out, group))

    def all_to_all(self, xs: Sequence[Tensor], outs: Sequence[Tensor], group: Group) -> None:
        self._call(CollectiveKind.ALL_TO_ALL, group, outs, lambda: self._inner.all_to_all(xs, outs, group))

    def barrier(self, group: Group) -> None:
        self._call(CollectiveKind.BARRIER, group, (), lambda: self._inner.barrier(group))

    def send(self, x: Tensor, peer: int) -> None:
        self._call(CollectiveKind.SEND, self._pair(peer), (), lambda: self._inner.send(x, peer))

    def recv(self, out: Tensor, peer: int) -> None:
        self._call(CollectiveKind.RECV, self._pair(peer), (out,), lambda: self._inner.recv(out, peer))

    def _pair(self, peer: int) -> Group:
        return min(self.rank, peer), max(self.rank, peer)

    def close(self) -> None:
        self._inner.close()

    def _call(self, kind: CollectiveKind, group: Group, outs: Sequence[Tensor], run: Callable[[], object]) -> None:
        run()


class RecordedComm(_Around):
    """Writes every collective to the rank's record on the status page, which outlives the rank."""

    def __init__(self, inner: Comm, status: StatusWriter, groups: Sequence[Group]) -> None:
        super().__init__(inner)
        self._status = status
        self._index = {group: index for index, group in enumerate(groups)}
        self._calls = dict.fromkeys(groups, 0)

    def _call(self, kind: CollectiveKind, group: Group, outs: Sequence[Tensor], run: Callable[[], object]) -> None:
        self._calls[group] += 1
        self._status.collective(kind, self._index[group], self._calls[group])
        run()
        self._status.left()


class FaultyComm(_Around):
    """Does what a test asks for at the nth collective."""

    def __init__(self, inner: Comm, faults: Faults) -> None:
        super().__init__(inner)
        self._faults = faults

    def _call(self, kind: CollectiveKind, group: Group, outs: Sequence[Tensor], run: Callable[[], object]) -> None:
        action = self._faults.reach("collective")
        if action is Action.SKIP:
            return
        if action is Action.SHAPE:
            self._inner.all_reduce(torch.zeros(3), group)
            return
        run()
        if action is Action.NAN:
            for out in outs:
                if out.is_floating_point():
                    out.fill_(float("nan"))
