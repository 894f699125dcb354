"""Runs the HTTP server and the engines until one of them ends or a signal comes.

The first signal drains: no new request, running ones end or get an error frame when the time is over. The second kills.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn

from weft.base.log import get_logger
from weft.base.machine.fd_limits import MOST_CONNECTIONS, REFUSED_AT_ONCE
from weft.base.machine.memory_trim import keep_all
from weft.frontend.server.app import Service
from weft.frontend.server.asgi import make_app
from weft.frontend.server.http.accept import Acceptor
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.http.connection import Connection
from weft.frontend.server.http.signals import EndSignals
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.page.layout_view import LayoutView
from weft.frontend.serving.replicas import Replicas

_log = get_logger(__name__)

SWITCH_S = 0.0005
"""Seconds that one thread may keep the interpreter while another waits for it."""

COLLECT_AFTER = (10_000, 50, 20)
"""New objects before the garbage collector looks at them, and how many of its looks make the next longer one."""

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
        """Until `ending` is set."""
        await self.ending.wait()


def run_server(
    sock: socket.socket,
    model: ServedModel,
    engines: Callable[[], Replicas],
    drain_timeout_s: float,
    http: HttpConfig | None = None,
    signals: EndSignals | None = None,
    layout: LayoutView | None = None,
) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP (returns) or until the engines fail (raises what ended them).

    `engines` is called inside the event loop. `drain_timeout_s`: for running requests, after the signal. `signals`:
    those of the start, which become the server's. `layout`: for the page.
    """
    # The engine's thread waits for the interpreter at each step: five milliseconds, as usual, are a good part of one.
    sys.setswitchinterval(SWITCH_S)
    model.warm_up()
    keep_all()
    # Collections come after as many objects as some hundred requests need, so that requests that come together are not
    # held up by one after the other.
    gc.set_threshold(*COLLECT_AFTER)
    signals = signals or EndSignals()
    signals.hold()
    with asyncio.Runner(loop_factory=uvicorn.Config(app="").get_loop_factory()) as runner:
        runner.run(_with_signals(signals, sock, model, engines, drain_timeout_s, http, layout))


async def _with_signals(
    signals: EndSignals,
    sock: socket.socket,
    model: ServedModel,
    make: Callable[[], Replicas],
    drain_timeout_s: float,
    http: HttpConfig | None,
    layout: LayoutView | None,
) -> None:
    engines = make()
    signals.give_to(asyncio.get_running_loop().add_signal_handler, _ending(engines, drain_timeout_s))
    await serve(sock, model, engines, http, layout)


async def serve(
    sock: socket.socket,
    model: ServedModel,
    engines: Replicas,
    http: HttpConfig | None = None,
    layout: LayoutView | None = None,
) -> None:
    """Launches `engines` and serves them on `sock` until they end; raises what they failed with."""
    http = http or HttpConfig()
    service = Service(
        engines, model, http.keys(), hosts=http.hosts(sock), queue_timeout_s=http.queue_timeout,
        always_usage=http.enable_force_include_usage, strict=http.strict_requests,
    )  # fmt: skip
    config = _config(service, http, layout)
    config.load()
    server = _Server(config)
    state, most = server.server_state, http.max_connections or MOST_CONNECTIONS
    make = partial(Connection, config, state, {}, max_connections=most)
    acceptor = Acceptor(sock, make, config.ssl, lambda: most + REFUSED_AT_ONCE - len(state.connections))
    engines.launch()
    serving = asyncio.create_task(server.serve([]))
    acceptor.open()
    try:
        await engines.ended.wait()
    finally:
        acceptor.close()
        server.should_exit = True
        server.ending.set()
        await serving
        engines.join()
    if engines.failure is not None:
        raise engines.failure


def _config(service: Service, http: HttpConfig, layout: LayoutView | None) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").addFilter(_not_about_cut_streams)
    return uvicorn.Config(
        make_app(service, http.origins, root_path=http.root_path, access_log=http.access_log, layout=layout),
        http=Connection,
        ssl_certfile=http.ssl_certfile,
        ssl_keyfile=http.ssl_keyfile,
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


def _ending(engines: Replicas, drain_timeout_s: float) -> Callable[[str], None]:
    """What each signal does, by name."""
    seen = []

    def end(name: str) -> None:
        seen.append(name)
        if len(seen) > 1:
            _log.info("%s: stopping at once", name)
            engines.kill()
        else:
            open_outputs = engines.open_outputs
            what = f"{open_outputs} running, {drain_timeout_s:g} s for them; again: at once" if open_outputs else "idle"
            _log.info("%s: stopping; %s", name, what)
            engines.drain(drain_timeout_s)

    return end
