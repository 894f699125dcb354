"""Buffers of the decode steps that a rank runs without Python: a frame, its columns and its answer."""

from __future__ import annotations

import ctypes

import numpy as np

from weft.base.step.plan import WORD
from weft.compute.native.runtime_records import FollowingRecord, StageIdsRecord
from weft.runtime.ipc.channel import Channel
from weft.runtime.ipc.status import StatusWriter
from weft.runtime.worker.prepared_rank import RankCapacity

_FRAMING_WORDS = 256
"""Slack, in words of 8 bytes, for the msgpack framing of a plan and of an answer."""


class DecodeFrames:
    """`record` is what C++ gets: the addresses of buffers for a plan with the row table of `ranks` ranks and at most
    `limits.max_num_seqs` decode rows that all take a new KV block, and of the rank's status record. `ids`: those that
    stages exchange; `samples`: whether the rank is of the last one."""

    def __init__(
        self,
        channel: Channel,
        status: StatusWriter,
        limits: RankCapacity,
        ids: StageIdsRecord,
        ranks: int,
        *,
        reports: bool,
        samples: bool,
    ) -> None:
        self._status = status  # keeps its page mapped: C++ writes to it
        self._ids = ids
        slots = limits.max_num_seqs
        # a count for each rank; 3 words for each row, 3 for each new block
        self._frame = np.zeros(ranks + 6 * slots + _FRAMING_WORDS, WORD)
        self._answer = np.zeros(slots + _FRAMING_WORDS, WORD)
        self._columns = np.zeros(3 * slots, WORD)
        self.record = FollowingRecord(
            fd=channel.fileno(),
            ranks=ranks,
            reports=int(reports),
            samples=int(samples),
            ids=ctypes.addressof(ids),
            status=status.address,
            frame=self._frame.ctypes.data,
            frame_room=self._frame.nbytes,
            columns=self._columns.ctypes.data,
            answer=self._answer.ctypes.data,
        )
