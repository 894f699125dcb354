"""Start-up phases of a rank, in order, and the board on which a person sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """In the order in which a rank passes through them."""

    SPAWN = "spawn"
    SETTINGS = "settings"
    LOAD = "load"
    GROUPS = "groups"
    CACHE = "cache"
    WARM_UP = "warm-up"
    READY = "ready"


ORDER = tuple(Phase)
EAGER = "operations one by one"
"""Of a rank's details, where its steps are slower for it, and why in brackets."""


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """Rank `rank` (`where`: its coordinates) entered `phase`, `at_s` seconds after the start."""

    rank: int
    where: str
    phase: Phase
    detail: str
    at_s: float

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"[{self.at_s:6.2f} s] {self.where} {self.phase}{detail}"


@dataclass(slots=True)
class PhaseBoard:
    """The last change of every rank, which count from 0 here; `listener` hears of each, by its number.

    `slowest_since`: when all had left earlier phases."""

    where: tuple[str, ...]
    listener: Callable[[PhaseChange], None] | None = None
    first_rank: int = 0
    """Number of the first rank, where these are one replica's of several."""
    changes: list[PhaseChange] = field(init=False)
    slowest_since: float = 0.0

    def __post_init__(self) -> None:
        first = self.first_rank
        self.changes = [PhaseChange(first + i, where, Phase.SPAWN, "", 0.0) for i, where in enumerate(self.where)]

    @property
    def phases(self) -> list[Phase]:
        """Of every rank."""
        return [change.phase for change in self.changes]

    def enter(self, rank: int, phase: Phase, detail: str, at_s: float) -> None:
        """Records and announces."""
        before, _ = self.late()
        self.changes[rank] = PhaseChange(self.first_rank + rank, self.where[rank], phase, detail, at_s)
        if self.late()[0] is not before:
            self.slowest_since = at_s
        if self.listener is not None:
            self.listener(self.changes[rank])

    @property
    def ready(self) -> bool:
        """Every rank is."""
        return all(phase is Phase.READY for phase in self.phases)

    def late(self) -> tuple[Phase, tuple[int, ...]]:
        """The earliest phase that a rank is still in, and the ranks in it."""
        phases = self.phases
        earliest = min(phases, key=ORDER.index)
        return earliest, tuple(rank for rank, phase in enumerate(phases) if phase is earliest)
