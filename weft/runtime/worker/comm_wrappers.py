"""Wrappers around a rank's end of the collectives: a record for backends that keep none, and faults for tests.

Each hands every call on as it is; `FaultyComm` only until its fault is due.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.compute.comm.base import Comm, Group
from weft.compute.comm.shm.region import CollectiveKind
from weft.compute.comm.wrapped import CommWrapper, Run
from weft.runtime.ipc.status import StatusWriter
from weft.runtime.worker.faults import Action, Faults


class RecordedComm(CommWrapper):
    """Writes every collective to the rank's record on the status page, which outlives the rank."""

    def __init__(self, inner: Comm, status: StatusWriter, groups: Sequence[Group]) -> None:
        super().__init__(inner)
        self._status = status
        self._index = {group: index for index, group in enumerate(groups)}
        self._calls = dict.fromkeys(groups, 0)

    def _call(
        self, kind: CollectiveKind, group: Group, ins: Sequence[Tensor], outs: Sequence[Tensor], run: Run
    ) -> Tensor | None:
        self._calls[group] += 1
        self._status.collective(kind, self._index[group], self._calls[group])
        found = run(ins, outs)
        self._status.left()
        return found


class FaultyComm(CommWrapper):
    """Does what a test asks for at the nth collective."""

    def __init__(self, inner: Comm, faults: Faults) -> None:
        super().__init__(inner)
        self._faults = faults

    def _call(
        self, kind: CollectiveKind, group: Group, ins: Sequence[Tensor], outs: Sequence[Tensor], run: Run
    ) -> Tensor | None:
        action = self._faults.reach("collective")
        if action is Action.SKIP:
            return None
        if action is Action.SHAPE:
            self.inner.all_reduce(torch.zeros(3), group)
            return None
        found = run(ins, outs)
        if action is Action.NAN:
            for out in (*outs, found):
                if out is not None and out.is_floating_point():
                    out.fill_(float("nan"))
        return found
