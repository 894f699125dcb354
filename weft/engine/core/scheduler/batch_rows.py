"""Records of the decode batch: one for each request, for each step in flight, and queues by step."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.engine.core.outputs import OutputHeader
from weft.engine.core.request import Request


@dataclass(slots=True, eq=False)
class BatchRow:
    """A request from its first decode row until it leaves the batch. Its row in step t has position t + `offset`."""

    request: Request
    slot: int
    table: list[int]
    """The request's list itself, so that growth does not touch the request."""
    number: int
    """Counts joins."""
    offset: int
    end: int
    """The tick after its last row, as far as its length decides."""
    synced: int
    """Results of ticks below it are in the request's own fields."""
    header: OutputHeader
    planned: bool = True
    """Whether it has a row in the next step."""
    alive: bool = True

    @classmethod
    def of(cls, request: Request, number: int, tick: int) -> BatchRow:
        """The row of a request whose first decode step is `tick`."""
        offset = request.num_planned - tick
        header = OutputHeader(
            request_id=request.request_id,
            index=request.index,
            prompt_tokens=request.num_prompt,
            cached_tokens=request.cached_tokens,
            preemptions=request.preemptions,
            queued_s=request.queued_s,
            output_offset=offset + 2 - request.num_prompt,
        )
        return cls(request, request.slot, request.table, number, offset, request.max_len - 1 - offset, tick, header)


class StepRows(msgspec.Struct, frozen=True, eq=False):
    """The decode rows of one step, in order. `departures`: rows that had left the batch when the step was planned."""

    batch_rows: list[BatchRow]
    slots: NDArray[np.int64]
    headers: list[OutputHeader]
    tick: int
    departures: int

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.batch_rows)


class ProcessedRows(msgspec.Struct, frozen=True, eq=False):
    """`events`: rows that Python must handle, in order. `dead`: rows whose request has left; their ids are dropped."""

    events: list[BatchRow]
    dead: list[BatchRow]


class TickQueue:
    """Rows by the tick at which something is due for them."""

    def __init__(self) -> None:
        self._due: dict[int, list[BatchRow]] = {}

    def at(self, tick: int) -> list[BatchRow]:
        """The list of rows that are due at `tick`, to append to; the tick must not have been taken."""
        return self._due.setdefault(tick, [])

    def take(self, tick: int) -> list[BatchRow]:
        """Removes and returns the rows that are due at `tick`."""
        return self._due.pop(tick, [])
