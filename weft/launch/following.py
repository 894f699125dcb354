"""Room for the steps that a rank runs without Python: where frames come from and go to, and what it counts meanwhile.

Knows the channel and the status page by their addresses; no plan and no model.
"""

from __future__ import annotations

import numpy as np

from weft.launch.channel import Channel
from weft.launch.status import StatusWriter
from weft.native.records import FollowingRecord

_ROW = 8
"""Bytes of a number."""
_BESIDE = 256
"""Bytes of a frame beside its columns, and more than an answer has beside its ids."""


def room_for_following(
    channel: Channel, status: StatusWriter, slots: int, groups: int, *, reports: bool
) -> FollowingRecord:
    """For steps of `groups` attention-dp groups of at most `slots` requests each; every table may have grown."""
    nbytes = groups * slots * 6 * _ROW + groups * 16 + _BESIDE
    room = np.zeros(nbytes + 3 * slots * _ROW + slots * _ROW + _BESIDE, np.uint8)
    begin = room.ctypes.data
    columns = begin + -(-nbytes // _ROW) * _ROW
    made = FollowingRecord(
        fd=channel.fileno(),
        groups=groups,
        reports=int(reports),
        status=status.address,
        frame=begin,
        frame_room=nbytes,
        columns=columns,
        answer=columns + 3 * slots * _ROW,
    )
    made.keeps = room, status
    return made
