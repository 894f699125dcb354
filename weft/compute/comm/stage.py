"""StageComm: the ranks of one pipeline stage as a world of their own, over the comm of all stages."""

from __future__ import annotations

from weft.compute.comm.base import Comm, Group
from weft.compute.comm.wrapped import CommWrapper


class StageComm(CommWrapper):
    """Ranks count from 0 at the stage's first one, as row tables and boundaries count them. Peers of `send` and `recv`
    are ranks of other stages: they keep their numbers in the world."""

    def __init__(self, inner: Comm, stage_size: int) -> None:
        super().__init__(inner)
        self.rank, self.world = inner.rank % stage_size, stage_size
        self.first = inner.rank - self.rank

    def _inner_group(self, group: Group) -> Group:
        return tuple(self.first + rank for rank in group)
