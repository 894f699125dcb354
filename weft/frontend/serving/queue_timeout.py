"""Streams that have waited too long for their first step: they fail, and are never run."""

from __future__ import annotations

import asyncio
from functools import partial

from weft.base.errors import RequestError
from weft.engine.core.engine import Engine
from weft.frontend.serving.engine_loop import EngineLoop
from weft.frontend.serving.replicas import Replicas
from weft.frontend.serving.stream import Stream

STEP_IN_HAND_S = 0.5
"""Seconds. A request that has waited too long fails when the current step ends, at the latest after this time."""


def expire(engines: Replicas, stream: Stream, error: RequestError) -> None:
    """Fails the stream with `error` if no step has run any of it: between two steps, or where the current step takes
    long, meanwhile. Call inside the event loop."""
    if engines.is_parked(stream):
        stream.fail(error)
        return
    loop = engines.loops[stream.replica]
    loop.tell(partial(_between_steps, loop, stream.request_ids, error))
    asyncio.get_running_loop().call_later(STEP_IN_HAND_S, _meanwhile, engines, stream, error)


def _between_steps(loop: EngineLoop, request_ids: tuple[str, ...], error: RequestError, engine: Engine) -> None:
    if not any(map(engine.has_run, request_ids)):
        for request_id in request_ids:
            engine.abort(request_id)
        loop.refuse(request_ids[0], error)


def _meanwhile(engines: Replicas, stream: Stream, error: RequestError) -> None:
    """The step that ran when the stream was overdue has not ended yet, or the stream runs: the engine knows
    which. No later step runs what has not begun, since the engine has its abort."""
    engine = engines.loops[stream.replica].engine
    begun = engine is not None and any(map(engine.is_running, stream.request_ids))
    if not begun and stream.untouched:
        stream.fail(error)
