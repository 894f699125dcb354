"""Errors of serving: why a request is not run, or not to its end. The server maps them to HTTP."""

from __future__ import annotations

import msgspec

from weft.base.errors import RequestError

STOPPING, QUARANTINED = "server_shutting_down", "request_quarantined"
"""Codes that decide whether a client should send its request again."""


class ErrorInfo(msgspec.Struct, frozen=True):
    """The inside of OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


def stopping() -> RequestError:
    """The server ends while the request is not done."""
    return RequestError("the server is shutting down", status=503, code=STOPPING)


def engine_failed() -> RequestError:
    """The engine ended while the request was not done; the cause is in the server's own output."""
    return RequestError("the engine stopped; see the server's log", status=500, code="engine_failed")


def engine_restarted(replica: int | None = None) -> RequestError:
    """The ranks (of `replica`, where there are several) died when the client had seen a part of the answer."""
    message = "the model's processes died and are started again; this answer is lost, send the request again"
    if replica is not None:
        message = f"the processes of replica {replica} died; this answer is lost, send the request again"
    return RequestError(message, status=503, code="engine_restarted")


def quarantined() -> RequestError:
    """The ranks died while they ran the request, and again while they ran it alone."""
    message = "the model's processes died while they ran this request, and again while they ran it alone; it is refused"
    message += " for 10 minutes, or until the server is started anew"
    return RequestError(message, status=422, code=QUARANTINED)


def restarting(lacking: str = "") -> RequestError:
    """The ranks died and are started again; `lacking`: which host they wait for, where one is lost."""
    message = "the model's processes are being started again"
    if lacking:
        message += f", and wait for a host: {lacking}"
    return RequestError(message, status=503, code="engine_restarting")


def not_ready() -> RequestError:
    """Ranks are still starting, or ending."""
    return RequestError("the model is not ready yet", status=503, code="not_ready")


def queue_full(outputs: int, most: int) -> RequestError:
    """More outputs are open than may be."""
    message = f"the queue is full: {outputs} outputs are open, at most {most} may be"
    return RequestError(message, status=429, code="queue_full")


def deadline_exceeded(seconds: float) -> RequestError:
    """No step has run the request in the time that it may wait."""
    message = f"the request waited longer than {seconds:g} s; it was not run"
    return RequestError(message, status=504, code="deadline_exceeded")
