"""Steps in flight, and what must not be reused before they retire. Plain records; know no budget and no block state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from weft.engine.request import Request
from weft.step.plan import GroupPlan, Run

Entry = tuple[Request, int, Run]
"""A request, its `admission` when the run was planned, and the run."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was planned and has not retired."""

    index: int
    entries: list[Entry]
    plan: GroupPlan


@dataclass(frozen=True, slots=True)
class Held:
    """Blocks, and a slot unless -1, that go back when step `until` has retired."""

    until: int
    blocks: list[int]
    slot: int = -1


class HeldBack:
    """Blocks and slots that go back once the steps that refer to them have retired."""

    def __init__(self, give_back: Callable[[Held], None]) -> None:
        self.retired = -1
        """Index of the last step that has."""
        self._give_back = give_back
        self._waiting: deque[Held] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, held: Held) -> None:
        """Gives `held` back, now or when its step retires."""
        if held.until > self.retired:
            self._waiting.append(held)
        else:
            self._give_back(held)

    def retire(self, index: int) -> None:
        """Steps up to `index` have retired."""
        self.retired = index
        while self._waiting and self._waiting[0].until <= index:
            self._give_back(self._waiting.popleft())


def flowing(decoding: Iterable[Request], prefilling: Iterable[Request]) -> list[Request]:
    """Who has a row for the token that was sampled last, or that a step in flight samples."""
    drawn = [each for each in prefilling if each.num_drawn]
    return [each for each in (*decoding, *drawn) if each.flows_on]


def scored_rows(entry: Entry) -> int:
    """Rows of logits beyond the one that every running request may have."""
    run = entry[2]
    return len(run.targets) + run.sample if run.targets else 0
