"""What `DecodeBatch` keeps of each request that flows, of each step in flight, and by step. Plain records."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.engine.outputs import OutputHeader
from weft.engine.request import Request


@dataclass(slots=True, eq=False)
class BatchRow:
    """A request from its first decode row on, until it ends or is set back. Its row of tick t has position
    t + `offset`."""

    request: Request
    slot: int
    table: list[int]
    """The request's own, so that its growth touches no other object."""
    number: int
    """In the order in which they began to flow."""
    offset: int
    end: int
    """Tick after that of its last row, as far as its length goes."""
    synced: int
    """Tick up to which results are in the request's own fields."""
    header: OutputHeader
    planned: bool = True
    """Whether it has a row in the next step."""
    alive: bool = True

    @classmethod
    def of(cls, request: Request, number: int, tick: int) -> BatchRow:
        """Its first decode row comes in step `tick`."""
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
    """The lanes that have a row in one step, in order: their slots, their heads, the step's tick, and how many lanes
    had departed when it was planned."""

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
    """What the results of a step mean for lanes: who must be looked at, in order; whose rows were for nothing."""

    events: list[BatchRow]
    dead: list[BatchRow]


class TickQueue:
    """Lanes by the tick at which something is due."""

    def __init__(self) -> None:
        self._due: dict[int, list[BatchRow]] = {}

    def at(self, tick: int) -> list[BatchRow]:
        """What is due at `tick`, to be added to; it has not been taken."""
        return self._due.setdefault(tick, [])

    def take(self, tick: int) -> list[BatchRow]:
        """What is due, once."""
        return self._due.pop(tick, [])
