"""Errors as OpenAI's clients know them: one serializer for bodies and for error frames. Knows no route."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from weft.errors import RequestError
from weft.log import get_logger

_log = get_logger(__name__)

CLIENT_GONE = 499
"""Status of a request whose client left before its answer was whole. No client sees it; logs and metrics do."""


class ErrorInfo(msgspec.Struct, frozen=True):
    """The inside of OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    error: ErrorInfo


_STOPPING, _QUARANTINED = "server_shutting_down", "request_quarantined"

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


def error_info(error: RequestError) -> ErrorInfo:
    """The inside of the error object."""
    return ErrorInfo(str(error), _TYPES.get(error.status, "server_error"), error.param, error.code)


def error_bytes(error: RequestError) -> bytes:
    """The JSON of the error object."""
    return msgspec.json.encode(ErrorBody(error_info(error)))


def error_headers(error: RequestError) -> dict[str, str]:
    """Whether coming back later helps, and whether the connection can be used for that."""
    headers: dict[str, str] = {}
    if error.status in (429, 503):
        headers |= {"retry-after": "1", "x-should-retry": "true"}
    if error.code == _QUARANTINED:
        headers["x-should-retry"] = "false"
    if error.code == _STOPPING:
        headers["connection"] = "close"
    return headers


def error_response(error: RequestError) -> Response:
    """The error with its status."""
    return Response(error_bytes(error), error.status, error_headers(error), "application/json")


def error_frame(error: RequestError) -> bytes:
    """The error inside a stream; nothing may follow it."""
    return b"data: " + error_bytes(error) + b"\n\n"


def shown_error(error: Exception) -> RequestError:
    """What the client is told: a request's own fault in its words; anything else goes to the log alone."""
    if isinstance(error, RequestError):
        return error
    _log.error("unexpected error in a request", exc_info=error)
    return RequestError("internal error", status=500, code="internal_error")


def stopping() -> RequestError:
    """The server ends while the request is not done."""
    return RequestError("the server is shutting down", status=503, code=_STOPPING)


def engine_failed() -> RequestError:
    """The engine ended while the request was not done; the cause is in the server's own output."""
    return RequestError("the engine stopped; see the server's log", status=500, code="engine_failed")


def engine_restarted(replica: int | None = None) -> RequestError:
    """The ranks (of `replica`, where there are several) died when the client had seen a part of the answer, or for the
    second time."""
    message = "the model's processes died and are started again; this answer is lost, send the request again"
    if replica is not None:
        message = f"the processes of replica {replica} died; this answer is lost, send the request again"
    return RequestError(message, status=503, code="engine_restarted")


def quarantined() -> RequestError:
    """The request was running at two successive deaths of the ranks."""
    message = "the model's processes died twice while they ran this request; it is not run again"
    return RequestError(message, status=422, code=_QUARANTINED)


def restarting() -> RequestError:
    """The ranks died and are started again."""
    return RequestError("the model's processes are being started again", status=503, code="engine_restarting")


def not_ready() -> RequestError:
    """Ranks are still starting, or ending."""
    return RequestError("the model is not ready yet", status=503, code="not_ready")


def queue_full(outputs: int, most: int) -> RequestError:
    """More outputs are open than may be."""
    message = f"the queue is full: {outputs} outputs are open, at most {most} may be"
    return RequestError(message, status=429, code="queue_full")


def client_gone() -> RequestError:
    """Nobody is there to be told."""
    return RequestError("the client closed the connection", status=CLIENT_GONE, code="client_closed_request")


def deadline_exceeded(seconds: float) -> RequestError:
    """No step has run the request in the time that it may wait."""
    message = f"the request waited longer than {seconds:g} s; it was not run"
    return RequestError(message, status=504, code="deadline_exceeded")
