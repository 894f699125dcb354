"""Steps that were planned and whose results are not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from weft.base.errors import WeftError
from weft.base.step.plan import GroupResult, Sampled, ScheduledRequest
from weft.engine.core.request import Request
from weft.engine.core.scheduler.batch_rows import StepRows


class Entry(NamedTuple):
    """Prompt rows of a step: the request, its `admission` when they were planned, and the rows."""

    request: Request
    admission: int
    run: ScheduledRequest


class InFlightStep(msgspec.Struct, frozen=True, eq=False):
    """A step that was planned and whose results were not processed. `entries`: its rows of prompts; `lane`: whose
    decode rows it has."""

    index: int
    rows: StepRows
    entries: list[Entry]
    lane: int = 0

    def check(self, index: int, result: GroupResult) -> None:
        """WeftError: `result`, of step `index`, is not this step's."""
        fits = len(result.ids) == self.rows.slots.nbytes
        if self.entries or result.runs:
            fits = fits and [each.slot for each in result.runs] == self._answering()
        if fits and result.extras:
            fits = {each.slot for each in result.extras} <= set(self.rows.slots.tolist())
        if index != self.index or not fits:
            slots = [*self.rows.slots.tolist(), *self._answering()]
            raise WeftError(f"results of step {index} are not those of step {self.index}, slots {slots}")

    def _answering(self) -> list[int]:
        return [run.slot for _, _, run in self.entries if run.sample or run.targets]

    def pairs(self, result: GroupResult) -> Iterator[tuple[Request, ScheduledRequest, Sampled | None]]:
        """Entries whose request has not departed since, each with its result, if it has one."""
        records = iter(result.runs)
        for request, admission, run in self.entries:
            record = next(records) if run.sample or run.targets else None
            if request.admission == admission:
                yield request, run, record

    def requests(self) -> set[str]:
        """Ids of the requests that have rows in the step."""
        entries = {entry.request.request_id for entry in self.entries}
        return entries.union(header.request_id for header in self.rows.headers)


def scored_rows(entry: Entry) -> int:
    """Rows of logits beyond the one that every running request may have."""
    run = entry.run
    return len(run.targets) + run.sample if run.targets else 0
