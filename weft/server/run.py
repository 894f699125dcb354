"""Runs the HTTP server and the engine until one of them ends or a signal comes. Knows no model.

The first signal ends everything in order: the engine after its step, streams with an error frame. The second kills.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from weft.log import get_logger
from weft.server.app import Service, make_app
from weft.server.engine_loop import EngineLoop, Start
from weft.server.models import ServedModel

_log = get_logger(__name__)

CLOSE_S = 3
"""Seconds that open connections have to take their last frame."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and without its tick: an idle server sleeps."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the supervisor."""
        yield

    async def main_loop(self) -> None:
        """Until told to end."""
        await self.ending.wait()


def run_server(
    sock: socket.socket,
    model: ServedModel,
    start: Start,
    *,
    max_queued: int,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGINT or SIGTERM (returns) or until the engine fails (raises what ended it)."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(sock, model, start, max_queued, on_ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    return uvicorn.Config(app="", loop="auto").get_loop_factory()


async def _serve(
    sock: socket.socket, model: ServedModel, start: Start, max_queued: int, on_ready: Callable[[], None]
) -> None:
    engine = EngineLoop(start, max_queued=max_queued, on_ready=on_ready)
    service = Service(engine, model)
    server = _Server(_config(service))
    _install_signals(engine)
    engine.launch()
    http = asyncio.create_task(server.serve([sock]))
    try:
        await engine.ended.wait()
    finally:
        server.ending.set()
        server.should_exit = True
        await http
        service.close()
        engine.join()
    if engine.failure is not None:
        raise engine.failure


def _config(service: Service) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").addFilter(_not_about_cut_streams)
    return uvicorn.Config(
        make_app(service),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        date_header=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=CLOSE_S,
        ws="none",
    )


def _not_about_cut_streams(record: logging.LogRecord) -> bool:
    """A stream that ended with an error frame was cut on purpose."""
    return "without completing response" not in record.getMessage()


def _install_signals(engine: EngineLoop) -> None:
    loop = asyncio.get_running_loop()
    seen = []

    def end(name: str) -> None:
        seen.append(name)
        if len(seen) > 1:
            engine.kill()
        else:
            _log.info("%s: stopping", name)
            engine.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number.name)
