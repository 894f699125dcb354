"""Backend `shared_memory`: ranks of one machine, over a `Region` and the C++ library `comm`. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.compute.comm.backend import CommSpec, RankEnd, Rendezvous, make_in
from weft.compute.comm.shm.region import PIECE_BYTES, RankRecord, Region, read_records
from weft.compute.native import missing_reason
from weft.parallel.layout.ranks import Group

if TYPE_CHECKING:
    from weft.compute.comm.base import Comm


class SharedRegion(Rendezvous):
    """A region whose descriptor all ranks inherit."""

    def __init__(self, region: Region, groups: tuple[Group, ...]) -> None:
        super().__init__(groups)
        self._region: Region | None = region

    def fds(self, rank: int) -> tuple[int, ...]:
        """As `Rendezvous`."""
        return () if self._region is None else (self._region.fd,)

    def records(self) -> tuple[RankRecord, ...]:
        """As `Rendezvous`."""
        return () if self._region is None else read_records(self._region.fd)

    def mark_dead(self, rank: int) -> None:
        """As `Rendezvous`."""
        if self._region is not None:
            self._region.mark_dead(rank)

    def close(self) -> None:
        """As `Rendezvous`."""
        region, self._region = self._region, None
        if region is not None:
            region.close()


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """`piece_bytes`: what a rank hands over in one round."""

    piece_bytes: int = PIECE_BYTES
    name: str = "shared_memory"
    keeps_records: bool = True

    def why_not(self, world: int, hosts: int, device: str) -> str:
        """As `Backend`."""
        if hosts > 1:
            return "ranks are on several machines"
        missing = missing_reason("comm")
        return f"the native library is missing: {missing}" if missing else ""

    def meet(self, spec: CommSpec) -> Rendezvous:
        """As `Backend`."""
        region = Region.create(
            spec.world,
            spec.groups,
            piece_bytes=self.piece_bytes,
            spin_us=None if spec.own_cores else 0,
            debug=spec.debug,
            mailboxes=spec.mailboxes,
        )
        return SharedRegion(region, spec.groups)

    def make(self, end: RankEnd) -> Comm:
        """As `Backend`."""
        return make_in("weft.compute.comm.shm.shared_memory", end)
