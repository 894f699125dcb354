"""What sampled ids mean for the requests of a group: who is told what, and who ends. Knows no budget, no admission."""

from __future__ import annotations

from collections.abc import Callable

from weft.engine.kv_cache.block_manager import BlockManager
from weft.engine.outputs import Counters, FinishReason, Head, RequestOutput, Stretch
from weft.engine.request import Request
from weft.engine.results import finish_after, output_of
from weft.engine.scheduler.batch_rows import Lane, Rows
from weft.engine.scheduler.decode_batch import Flow
from weft.step.plan import GroupResult, Sampled


class Landing:
    """`remove` ends a request."""

    def __init__(self, flow: Flow, blocks: BlockManager, counters: Counters, remove: Callable[[Request], None]) -> None:
        self._flow, self._blocks, self._counters, self._remove = flow, blocks, counters, remove

    def streams(self, rows: Rows, result: GroupResult) -> Stretch:
        """The ids of requests that flow: Python looks only at those that something has happened to."""
        told = {record.slot: record for record in result.told} if result.told else {}
        ids = result.array()
        landed = self._flow.land(rows, ids, told)
        self._counters.generated_tokens += len(rows.lanes) - len(landed.dead)
        others: dict[Head, RequestOutput | None] = {}
        for lane in landed.dead:
            others[lane.head] = None
        for lane in landed.looked_at:
            others[lane.head] = self._look(lane, told.get(lane.request.slot))
        return Stretch(rows.tick, rows.heads, ids, others)

    def _look(self, lane: Lane, record: Sampled | None) -> RequestOutput:
        """One stream's result, where there is or may be more to it than an id."""
        request = lane.request
        if record is not None and record.error is not None:
            self._counters.generated_tokens -= 1
            self._flow.settle(lane, but=1)
            return self.fail(request, record.error)
        self._flow.settle(lane)
        return self.told(request, record or Sampled(request.slot, request.token_ids[-1]))

    def told(self, request: Request, result: Sampled) -> RequestOutput:
        """Its last id is `result`'s, which may end it."""
        finish, reason = finish_after(request)
        if finish:
            self._remove(request)
        return output_of(request, result, finish=finish, stop_reason=reason)

    def fail(self, request: Request, error: str) -> RequestOutput:
        """It ends. What it read or wrote must not reach another one through the cache."""
        self._blocks.withdraw(request.table)
        request.shared = len(request.table)
        self._remove(request)
        return output_of(request, finish=FinishReason.ERROR, error=error)
