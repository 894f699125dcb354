"""Replicas: the engines of all replicas as one: gives each request to a replica, and says what their deaths mean.

Belongs to the event loop. One replica's death is its own: streams that a client has seen something of end with the
reason, what was in its step waits for its next ranks, what was not goes to another replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import methodcaller

from msgspec import UNSET, UnsetType

from weft.base.deaths import may_blame
from weft.base.errors import RequestError
from weft.base.log import get_logger
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.limits import Limits
from weft.engine.core.outputs import EngineStats, Outputs
from weft.frontend.serving.engine_loop import EngineLoop, Running
from weft.frontend.serving.errors import engine_failed, not_ready, queue_full, restarting, stopping
from weft.frontend.serving.open_streams import OpenStreams
from weft.frontend.serving.placement import RequestPlacement
from weft.frontend.serving.protocols import Start
from weft.frontend.serving.readiness import Readiness, ReplicaStatus, Resolved, Status, quarantine_of
from weft.frontend.serving.recovery.isolation import Isolation
from weft.frontend.serving.recovery.restarts import Recovery
from weft.frontend.serving.stream import Stream

_log = get_logger(__name__)


class Replicas:
    """An engine for each of `starts`; `ended` is set, and `failure` says why, once all are through.

    `max_queued` outputs may wait beside those that can run. `on_ready` is called each time that every replica is ready,
    but for those that are not started again. `recovery` makes what each replica's restarts obey; None: its first death
    is its end. When none is left, or one dies in its first start, the server ends. `resolved`: for /ready.
    """

    def __init__(
        self,
        starts: Sequence[Start],
        *,
        max_queued: int,
        on_ready: Callable[[], None] = lambda: None,
        recovery: Callable[[], Recovery] | None = None,
        resolved: Resolved | UnsetType = UNSET,
    ) -> None:
        self.loops = tuple(
            EngineLoop(start, self, index, recovery() if recovery else None) for index, start in enumerate(starts)
        )
        self._max_queued, self._on_ready, self._resolved = max_queued, on_ready, resolved
        self._open = OpenStreams(named=len(starts) > 1)
        self._placement = RequestPlacement(len(starts))
        self._isolation = Isolation(len(starts), lambda at: self.loops[at].serving, self._give, self._place_parked)
        self._parked: dict[Stream, None] = {}
        """Streams that wait for a replica that may run them."""
        self._draining = self._stopping = False
        self.failure: BaseException | None = None
        self.ended = asyncio.Event()

    def launch(self) -> None:
        """Starts all; call inside the event loop that will read the streams."""
        for loop in self.loops:
            loop.launch()

    @property
    def ready(self) -> bool:
        """Whether requests are taken: while any replica takes them."""
        return self.status not in ("draining", "stopped") and any(loop.serving for loop in self.loops)

    @property
    def status(self) -> Status:
        """Of the server."""
        if self.ended.is_set():
            return "stopped"
        if self._draining or self._stopping:
            return "draining"
        found = [loop.status for loop in self.loops]
        if "starting" in found:
            return "starting"
        if "ready" in found:
            return "ready" if {*found} == {"ready"} else "degraded"
        return "restarting" if "restarting" in found else "stopped"

    @property
    def restarts(self) -> int:
        """How many sets of ranks have died."""
        return sum(loop.restarts for loop in self.loops)

    @property
    def limits(self) -> Limits | None:
        """What a request must fit into, wherever it runs: the closest of all replicas that have been ready."""
        known = [loop.engine.limits for loop in self.loops if loop.engine is not None]
        return min(known, key=lambda limits: (limits.max_model_len, limits.capacity), default=None)

    @property
    def fingerprint(self) -> str | None:
        """The layout's digest, where the layout is known."""
        return None if self._resolved is UNSET else self._resolved.fingerprint

    @property
    def groups(self) -> int:
        """Attention-dp groups of each replica; 1 while none has been ready."""
        return next((loop.engine.executor.layout.attention.dp for loop in self.loops if loop.engine is not None), 1)

    def readiness(self) -> Readiness:
        """For /ready."""
        return Readiness(
            status=self.status,
            restarts=self.restarts,
            replicas=[ReplicaStatus(loop.index, loop.status, loop.restarts) for loop in self.loops],
            ranks=[report for loop in self.loops for report in loop.reports()],
            resolved=self._resolved,
            quarantine=quarantine_of(self._open.quarantine()),
        )

    def check_ready(self) -> Limits:
        """RequestError (503): no replica takes requests: not ready yet, restarting, or ending."""
        status, limits = self.status, self.limits
        if not self.ready or limits is None:
            if status == "restarting":
                raise restarting("; ".join(filter(None, dict.fromkeys(loop.lacking() for loop in self.loops))))
            raise {"draining": stopping, "stopped": stopping}.get(status, not_ready)()
        return limits

    def check_begun(self) -> None:
        """RequestError (503): as in `check_ready`, or a replica has never been ready."""
        self.check_ready()
        if self.status == "starting":
            raise not_ready()

    def check_room(self, outputs: int) -> Limits:
        """RequestError: not ready (503), or no room in the queue for `outputs` more (429)."""
        limits = self.check_ready()
        slots = limits.max_num_seqs * self.groups * sum(loop.serving for loop in self.loops)
        if self.open_outputs + outputs > (most := slots + self._max_queued):
            raise queue_full(self.open_outputs, most)
        return limits

    @property
    def open_outputs(self) -> int:
        """Outputs that are queued or running."""
        return self._open.outputs

    @property
    def open_requests(self) -> int:
        """Requests that are queued or running."""
        return len(self._open)

    async def stats(self) -> list[EngineStats | None]:
        """Every replica's counters between two of its steps; None while it has no engine, or does not answer."""
        return await asyncio.gather(*(loop.stats() for loop in self.loops))

    def submit(
        self, request_id: str, prompts: Sequence[list[int]], params: SamplingParams, *, whole: bool = False
    ) -> Stream:
        """A stream of `params.n` outputs of every prompt, all on one replica; `whole`: see Stream.

        RequestError as in `check_room`, or 422: the request is in quarantine.
        """
        self.check_room(params.n * len(prompts))
        stream = self._open.add(request_id, prompts, params, whole=whole)
        self._place(stream)
        return stream

    def tell(self, stream: Stream, command: Callable[[Engine], object]) -> None:
        """Runs `command` in the engine that runs the stream; dropped where none does."""
        if not self.is_parked(stream):
            self.loops[stream.replica].tell(command)

    def stop_output(self, stream: Stream, choice: int, reason: str) -> None:
        """Ends one output whose text holds a stop string; the engine answers with its last record."""
        prompt, index = divmod(choice, stream.n)
        request_id = stream.request_ids[prompt]
        self.tell(stream, lambda engine: engine.stop_request(request_id, reason, index=index))

    def is_parked(self, stream: Stream) -> bool:
        """Whether it waits for a replica that may run it."""
        return stream in self._parked or self._isolation.waits(stream)

    def close_stream(self, stream: Stream) -> None:
        """The reader is gone: what is unfinished is aborted."""
        self._open.discard(stream)
        if stream.open_outputs:
            for request_id in stream.request_ids:
                self.tell(stream, methodcaller("abort", request_id))
        self._leave(stream)
        if self._draining and not self._open:
            self.stop()

    def _place(self, stream: Stream) -> None:
        """Gives the stream to a replica, or keeps it until there is a replica that may run it."""
        home = self._home(stream)
        if home is not None:
            self._isolation.add(stream, home)
            return
        among = [loop.index for loop in self.loops if loop.serving and not self._isolation.holds(loop.index)]
        if among:
            self._give(stream, *among)
        else:
            self._parked[stream] = None

    def _give(self, stream: Stream, *among: int) -> None:
        """Gives the stream to one of the replicas `among`."""
        prompts = dict(zip(stream.request_ids, stream.prompts, strict=True))
        stream.replica = self._placement.place(prompts, stream.params, self.limits, among)
        self._isolation.began(stream, stream.replica)
        for request_id, prompt in prompts.items():
            self.loops[stream.replica].admit(request_id, prompt, stream.params)

    def _home(self, stream: Stream) -> int | None:
        """The one replica that may run the stream, alone: one that died while it ran the same, so that no other dies of
        it; another where that one is gone. None: any replica may, beside others."""
        home = self._open.suspected_at(stream)
        left = [loop.index for loop in self.loops if not loop.gone]
        return home if home is None or home in left or not left else left[0]

    def _leave(self, stream: Stream) -> None:
        """Takes the stream from its replica, or from those that wait."""
        self._parked.pop(stream, None)
        self._isolation.leave(stream)
        for request_id in stream.request_ids:
            self._placement.end(request_id)

    def _place_parked(self) -> None:
        parked, self._parked = self._parked, {}
        for stream in parked:
            self._place(stream)

    # -- what the engines say

    def deliver(self, outputs: Outputs) -> None:
        """A step's outputs, each to its stream."""
        self._open.deliver(self._placement.computed(outputs))

    def refuse(self, request_id: str, error: RequestError) -> None:
        """An engine did not take the request, or not in time."""
        self._open.fail(request_id, error)

    def begun(self, loop: EngineLoop) -> None:
        """A replica is ready."""
        assert loop.engine is not None
        self._placement.open(loop.index, loop.engine.limits, self.groups)
        self._isolation.turn(loop.index)
        self._place_parked()
        if all(each.serving or each.gone for each in self.loops):
            self._on_ready()

    def lost(self, loop: EngineLoop, running: Running, *, blamed: bool) -> None:
        """A replica's ranks died: each of its streams fails, or runs elsewhere, or waits for the next ranks."""
        self._placement.close(loop.index)
        for stream in self._open.lose(running, loop.index, blamed=blamed):
            self._leave(stream)
            self._place(stream)

    def over(self, loop: EngineLoop, failure: BaseException | None, running: Running) -> None:
        """A replica has ended for good. The server ends too where it was the last one, or was never ready."""
        last = all(each.gone for each in self.loops)
        if failure is not None and (last or loop.engine is None):
            self.failure = self.failure or failure
            self._open.end(engine_failed())
            self.stop()
        elif failure is not None:
            _log.error("replica %d is not started again, the others go on: %s", loop.index, failure)
            self.lost(loop, running, blamed=may_blame(failure))
            self._place_parked()
        if last:
            self._open.end(stopping())
            self.ended.set()

    # -- the end

    def drain(self, limit_s: float) -> None:
        """Takes no more requests and ends when the open ones have, after `limit_s` at the latest."""
        self._draining = True
        if self.limits is None or not self._open or limit_s <= 0:
            self.stop()
        else:
            asyncio.get_running_loop().call_later(limit_s, self.stop)

    def stop(self) -> None:
        """Ends every engine after its current step, or ends its start; open streams end with an error."""
        self._stopping = True
        for loop in self.loops:
            loop.stop()

    def kill(self) -> None:
        """Ends all ranks at once, whatever they do."""
        self._stopping = True
        for loop in self.loops:
            loop.kill()

    def join(self) -> None:
        """Waits until every engine's thread has ended."""
        for loop in self.loops:
            loop.join()
