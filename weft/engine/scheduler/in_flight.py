"""Steps in flight, and what must not be reused before they retire. Plain records; know no budget and no block state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from weft.engine.request import Request
from weft.engine.scheduler.batch_rows import Rows
from weft.errors import WeftError
from weft.step.plan import GroupResult, Run, Sampled

Entry = tuple[Request, int, Run]
"""A request, its `admission` when the run was planned, and the run."""


class Flight(msgspec.Struct, frozen=True, eq=False):
    """A step that was planned and has not retired."""

    index: int
    rows: Rows
    entries: list[Entry]
    """Of prompts."""

    def check(self, index: int, result: GroupResult) -> None:
        """WeftError: `result`, of step `index`, is not this step's."""
        fits = len(result.ids) == self.rows.slots.nbytes
        if self.entries or result.runs:
            fits = fits and [each.slot for each in result.runs] == self._answering()
        if fits and result.told:
            fits = {each.slot for each in result.told} <= set(self.rows.slots.tolist())
        if index != self.index or not fits:
            slots = [*self.rows.slots.tolist(), *self._answering()]
            raise WeftError(f"results of step {index} are not those of step {self.index}, slots {slots}")

    def _answering(self) -> list[int]:
        return [run.slot for _, _, run in self.entries if run.sample or run.targets]

    def pairs(self, result: GroupResult) -> Iterator[tuple[Request, Run, Sampled | None]]:
        """Runs of requests that have not departed since, each with its record, if it has one."""
        records = iter(result.runs)
        for request, admission, run in self.entries:
            record = next(records) if run.sample or run.targets else None
            if request.admission == admission:
                yield request, run, record

    def requests(self) -> set[str]:
        """Ids of those that have rows."""
        entries = {request.request_id for request, _, _ in self.entries}
        return entries.union(head.request_id for head in self.rows.heads)


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


def scored_rows(entry: Entry) -> int:
    """Rows of logits beyond the one that every running request may have."""
    run = entry[2]
    return len(run.targets) + run.sample if run.targets else 0
