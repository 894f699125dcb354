"""OpenStreams: every stream that is read, and what becomes of each when the ranks die. The event loop's alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.base.errors import RequestError
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.outputs import RequestOutput
from weft.frontend.serving.errors import engine_restarted, quarantined
from weft.frontend.serving.recovery.quarantine import Quarantine
from weft.frontend.serving.stream import Stream


class OpenStreams:
    """By the ids of their engine requests. `named`: errors say which replica died."""

    def __init__(self, *, named: bool = False) -> None:
        self._named = named
        self._streams: dict[str, tuple[Stream, int]] = {}
        self._open: dict[Stream, None] = {}
        self._quarantine = Quarantine()
        self.outputs = 0
        """Outputs that are queued or running."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, request_id: str, prompts: Sequence[list[int]], params: SamplingParams, *, whole: bool) -> Stream:
        """A new stream, with an engine request for each prompt. RequestError (422): it is in quarantine."""
        ids = tuple(f"{request_id}-{index}" for index in range(len(prompts)))
        stream = Stream(ids, tuple(prompts), params, whole)
        if self._is_quarantined(stream):
            raise quarantined()
        self._open[stream] = None
        self.outputs += stream.open_outputs
        for index, part_id in enumerate(ids):
            self._streams[part_id] = (stream, index * params.n)
        return stream

    def discard(self, stream: Stream) -> None:
        """Its reader is gone."""
        if stream in self._open:
            del self._open[stream]
            self.outputs -= stream.open_outputs
        for request_id in stream.request_ids:
            self._streams.pop(request_id, None)
        well = (stream.answered or not stream.open_outputs) and not stream.refused
        if well and self._quarantine.watches:
            self._quarantine.ended_well(stream.digest())

    def deliver(self, outputs: Iterable[RequestOutput]) -> None:
        """A step's outputs, each to its stream; those of streams that are gone are dropped."""
        reached: dict[Stream, None] = {}
        for output in outputs:
            found = self._streams.get(output.request_id)
            if found is not None:
                stream, first = found
                stream.put(first + output.index, output)
                self.outputs -= output.finish_reason is not None
                reached[stream] = None
        for stream in reached:
            stream.flush()

    def fail(self, request_id: str, error: RequestError) -> None:
        """The engine did not take the request, or takes it no longer; what it still says of it is dropped."""
        found = self._streams.pop(request_id, None)
        if found is not None:
            found[0].open_outputs -= found[0].n
            self.outputs -= found[0].n
            found[0].refused = True
            found[0].fail(error)

    def end(self, error: RequestError) -> None:
        """All of them, with this reason."""
        for stream in self._open:
            stream.fail(error)

    def suspected_at(self, stream: Stream) -> int | None:
        """The replica whose last death hit a request for the same; None: none did."""
        return self._quarantine.suspected_at(stream.digest()) if self._quarantine.watches else None

    def lose(self, running: frozenset[str], replica: int = 0, *, blamed: bool = True) -> list[Stream]:
        """The replica's ranks died while the engine requests `running` were in a step; returns what to send again.

        A stream that a client has seen something of fails. `blamed`: rows of the step may have caused the death. The
        others of the step are then suspects, and run again alone: `suspected_at` says where. One whose ranks die while
        it runs alone is quarantined.
        """
        mine = [stream for stream in self._open if stream.replica == replica]
        hit = [stream for stream in mine if running.intersection(stream.request_ids)]
        if blamed:
            self._quarantine.died([stream.digest() for stream in hit], replica)
        unfinished = [stream for stream in mine if stream.open_outputs and stream.error is None]
        return [stream for stream in unfinished if self._begins_again(stream)]

    def quarantine(self) -> list[float]:
        """Seconds after which each request in quarantine is lifted."""
        return self._quarantine.lifted_in_s()

    def _begins_again(self, stream: Stream) -> bool:
        if self._is_quarantined(stream):
            stream.fail(quarantined())
            return False
        if not stream.can_begin_again:
            stream.fail(engine_restarted(stream.replica if self._named else None))
            return False
        self.outputs -= stream.open_outputs
        stream.begin_again()
        self.outputs += stream.open_outputs
        return True

    def _is_quarantined(self, stream: Stream) -> bool:
        return self._quarantine.watches and stream.digest() in self._quarantine
