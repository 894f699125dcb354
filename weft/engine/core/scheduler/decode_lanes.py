"""DecodeLanes: the decoding requests of one group as several decode batches, one for each step that pipeline stages run
at once.

A step carries the rows of one lane; steps take the lanes in turn. A request moves to another lane while none of its
tokens is in flight, so that the numbers of rows differ by at most one. With one lane nothing moves."""

from __future__ import annotations

from collections.abc import Iterator

from weft.engine.core.request import Request
from weft.engine.core.scheduler.decode_batch import DecodeBatch


class DecodeLanes:
    """`count` batches of at most `slots` requests together."""

    def __init__(self, count: int, slots: int, block_size: int) -> None:
        self.batches = tuple(DecodeBatch(slots, block_size) for _ in range(count))
        self._batch_of: dict[int, DecodeBatch] = {}
        """By arrival."""
        self._moving: dict[int, tuple[Request, int]] = {}
        """Requests on their way to a lane, by arrival, and the step with their last token in flight."""

    def join(self, request: Request, lane: int, step: int) -> None:
        """A request whose last prompt row has just been planned, in `step` of `lane`: it decodes there, or, where
        another lane has fewer rows, in that one once the step has retired."""
        sizes = self._sizes()
        if sizes[lane] == min(sizes):
            self._enter(request, self.batches[lane])
        else:
            self._moving[request.arrival] = request, step

    def leave(self, request: Request) -> None:
        """Removes a request, if it is here; its rows in flight become dead."""
        self._moving.pop(request.arrival, None)
        if (batch := self._batch_of.pop(request.arrival, None)) is not None:
            batch.leave(request)

    def mark_changed(self, request: Request) -> None:
        """Some entry of the request's block table has changed."""
        if (batch := self._batch_of.get(request.arrival)) is not None:
            batch.mark_changed(request)

    def retire(self, step: int) -> None:
        """Step `step` has brought its results: what waited for it goes to the lane with the fewest rows."""
        for request in self._arriving(step):
            self.leave(request)
            if request.has_next_token:
                self._enter(request, min(self.batches, key=lambda batch: batch.num_rows))

    def _arriving(self, step: int) -> list[Request]:
        return [request for request, last in self._moving.values() if last <= step]

    def balance(self, retired: int) -> None:
        """Takes requests out of lanes that have two rows more than others; `retired`: the last step that has."""
        while len(self.batches) > 1:
            sizes = self._sizes()
            largest = self.batches[sizes.index(max(sizes))]
            if max(sizes) - min(sizes) < 2 or (youngest := largest.youngest()) is None:
                break
            self._moving[youngest.arrival] = youngest, largest.withdraw(youngest)
            self.retire(retired)

    def _sizes(self) -> list[int]:
        """Rows of each lane's next step, as they will be when requests that move have come."""
        sizes = [batch.num_rows for batch in self.batches]
        for _ in self._moving:
            sizes[sizes.index(min(sizes))] += 1
        return sizes

    def _enter(self, request: Request, batch: DecodeBatch) -> None:
        batch.join(request)
        self._batch_of[request.arrival] = batch
        if request.num_known < len(request.table):  # the table changed while the request was in no lane
            batch.mark_changed(request)

    def __iter__(self) -> Iterator[DecodeBatch]:
        return iter(self.batches)
