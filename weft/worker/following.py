"""The plan that a rank has in hand, step by step, and room for the steps that it runs without Python: where frames come
from and go to, and what is counted meanwhile.

Python and C++ take turns: whoever runs a step notes its ids here, and either goes on from where the other one stopped.
Knows the channel and the status page by their addresses; no model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.ipc.channel import Channel
from weft.ipc.messages import StepDone
from weft.ipc.status import StatusWriter
from weft.native.records import FollowingRecord
from weft.step.plan import MOST_ENDS, MOST_FURTHER, WORD, GroupResult, StepPlan
from weft.worker.runner import RankCapacity

_BESIDE = 256
"""Room, in numbers, for what a frame has beside columns, tables and ends, two numbers for each group included, and for
what an answer has beside its ids."""


class PlanInHand:
    """Of plans for `groups` attention-dp groups of requests within `limits` each; every table may have grown."""

    def __init__(
        self, channel: Channel, status: StatusWriter, limits: RankCapacity, groups: int, *, reports: bool
    ) -> None:
        self._keeps = status  # its page, which C++ writes to
        self._plan: StepPlan | None = None
        slots, grown = limits.max_num_seqs, 1 + -(-MOST_FURTHER // limits.block_size)
        words = groups * (3 * (1 + grown) * slots + 2) + MOST_ENDS + _BESIDE
        self._frame, self._answer = (np.zeros(size, WORD) for size in (words, (1 + MOST_FURTHER) * slots + _BESIDE))
        self._columns, self._ids = np.zeros(3 * slots, WORD), np.zeros((1 + MOST_FURTHER) * slots, WORD)
        self._ends = np.zeros(MOST_ENDS, WORD)
        self.record = FollowingRecord(
            fd=channel.fileno(),
            reports=int(reports),
            status=status.address,
            frame=self._frame.ctypes.data,
            frame_room=self._frame.nbytes,
            columns=self._columns.ctypes.data,
            answer=self._answer.ctypes.data,
            most=1 + MOST_FURTHER,
            ids=self._ids.ctypes.data,
            ends=self._ends.ctypes.data,
            ends_room=MOST_ENDS,
            agreed=status.agreed.address,
            first=int(status.rank == 0),
        )

    @property
    def wants_frame(self) -> bool:
        """Whether the frame that waits is to be read: none is in hand, or C++ has begun with that one."""
        return not self.record.left or bool(self.record.waits)

    def take(self, plan: StepPlan) -> None:
        """`plan` was in the frame that waited, and is in hand now; C++ may have run some of it."""
        self._plan = plan
        if not self.record.left:
            self.record.done, self.record.left = 0, plan.most_steps
        self.record.waits, self.record.index = 0, plan.index
        self.record.each = int(plan.further is not None and plan.further.each)

    @property
    def step(self) -> StepPlan:
        """Its next step, or the one that has just run and whose tokens are still to be chosen."""
        assert self._plan is not None
        return self._plan.of_step(self.record.done)

    def note(self, step: StepPlan, result: GroupResult) -> StepDone | None:
        """What `step`, that step, gave. The answer that is due: to this step, or to the plan where no step is left."""
        assert self._plan is not None
        further, record, ids = self._plan.further, self.record, result.array()
        if further is None:
            record.left = 0
            return StepDone(record.index, result)
        rows, columns = len(ids), step.groups[0].streams.array()
        self._ids[record.done * rows : (record.done + 1) * rows] = ids
        self._columns[: columns.size] = columns.reshape(-1)
        record.done, record.left = record.done + 1, record.left - 1
        if not further.goes_on_behind(result) or (record.left and further.each and not self._goes_on()):
            record.left = 0
        if record.left:
            self._tell_ends(further.ends)
        if further.each:
            return StepDone(step.index, result, more=record.left > 0)
        if record.left:
            return None
        return StepDone(record.index, GroupResult(self._ids[: record.done * rows].tobytes(), result.told))

    def _goes_on(self) -> bool:
        index, done = self.record.index, self.record.done
        agreed = self._keeps.agreed
        return agreed.decide(index, done) if self.record.first else agreed.hear(index, done, self.record.most)

    def _tell_ends(self, ends: bytes) -> None:
        found: NDArray[np.int64] = np.frombuffer(ends, WORD)
        self.record.ends_count = len(found)
        self._ends[: len(found)] = found
