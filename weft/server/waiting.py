"""Streams that wait: for a first step, or for a reader. What the engine is told of them; knows no HTTP."""

from __future__ import annotations

from functools import partial
from operator import methodcaller

from weft.engine.engine import Engine
from weft.errors import RequestError
from weft.server.engine_loop import EngineLoop
from weft.server.stream import Stream


def pause(loop: EngineLoop, stream: Stream) -> None:
    """Its reader takes nothing: what runs of it gives its slots and blocks to others until `resume`."""
    for request_id in stream.request_ids:
        loop.tell(methodcaller("pause", request_id))


def resume(loop: EngineLoop, stream: Stream) -> None:
    """Its reader takes something again."""
    for request_id in stream.request_ids:
        loop.tell(methodcaller("resume", request_id))


def expire(loop: EngineLoop, stream: Stream, error: RequestError) -> None:
    """Fails the stream with `error` if no step has run any of it."""
    loop.tell(partial(_expire, loop, stream.request_ids, error))


def _expire(loop: EngineLoop, request_ids: tuple[str, ...], error: RequestError, engine: Engine) -> None:
    if not any(engine.has_run(request_id) for request_id in request_ids):
        for request_id in request_ids:
            engine.abort(request_id)
        loop.fail(request_ids[0], error)
