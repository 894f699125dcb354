"""Turns the sampled ids of a group's step into outputs, and ends requests that are finished."""

from __future__ import annotations

from collections.abc import Callable

from weft.base.step.plan import GroupResult, Sampled
from weft.engine.core.kv_cache.block_manager import BlockManager
from weft.engine.core.outputs import Counters, DecodeOutputs, FinishReason, OutputHeader, RequestOutput
from weft.engine.core.request import Request
from weft.engine.core.results import finish_after, output_of
from weft.engine.core.scheduler.batch_rows import BatchRow, StepRows
from weft.engine.core.scheduler.decode_batch import DecodeBatch


class OutputProcessor:
    """`remove` takes a finished request out of the scheduler."""

    def __init__(self, blocks: BlockManager, counters: Counters, remove: Callable[[Request], None]) -> None:
        self._blocks, self._counters, self._remove = blocks, counters, remove

    def process_decodes(self, batch: DecodeBatch, rows: StepRows, result: GroupResult) -> DecodeOutputs:
        """Outputs of the decode rows, which are `batch`'s; Python handles only rows with an event one by one."""
        extras = {record.slot: record for record in result.extras} if result.extras else {}
        ids = result.array()
        processed = batch.process(rows, ids, extras)
        self._counters.generated_tokens += len(rows.batch_rows) - len(processed.dead)
        records: dict[OutputHeader, RequestOutput | None] = dict.fromkeys([row.header for row in processed.dead])
        for row in processed.events:
            records[row.header] = self._process_event(batch, row, extras.get(row.request.slot))
        return DecodeOutputs(rows.tick, rows.headers, ids, records)

    def _process_event(self, batch: DecodeBatch, row: BatchRow, record: Sampled | None) -> RequestOutput:
        """The output of a row that has more than an id, or may have ended."""
        request = row.request
        if record is not None and record.error is not None:
            self._counters.generated_tokens -= 1
            batch.sync(row, but=1)
            return self.fail(request, record.error)
        batch.sync(row)
        return self.process_token(request, record or Sampled(request.slot, request.token_ids[-1]))

    def process_token(self, request: Request, result: Sampled) -> RequestOutput:
        """The output for the request's last token, which is `result`'s; ends the request if it is finished."""
        finish, reason = finish_after(request)
        if finish:
            self._remove(request)
        return output_of(request, result, finish=finish, stop_reason=reason)

    def fail(self, request: Request, error: str) -> RequestOutput:
        """Ends the request with an error. Its blocks leave the prefix cache: their contents may be wrong."""
        self._blocks.withdraw(request.table)
        request.num_published = len(request.table)
        self._remove(request)
        return output_of(request, finish=FinishReason.ERROR, error=error)
