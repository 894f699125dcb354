"""Steps in flight, and what must not be reused before they retire. Plain records; know no budget and no block state."""

from __future__ import annotations

from dataclasses import dataclass

from weft.engine.request import Request
from weft.step.plan import Run

Entry = tuple[Request, int, Run]
"""A request, its `admission` when the run was planned, and the run."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was planned and has not retired."""

    index: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Held:
    """Blocks, and a slot unless -1, that go back when step `until` has retired."""

    until: int
    blocks: list[int]
    slot: int = -1


def scored_rows(entry: Entry) -> int:
    """Rows of logits beyond the one that every running request may have."""
    run = entry[2]
    return len(run.targets) + run.sample if run.targets else 0
