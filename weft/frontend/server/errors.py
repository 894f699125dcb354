"""Errors as OpenAI's clients know them: one serializer for bodies and for error frames."""

from __future__ import annotations

from typing import NoReturn

import msgspec
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.base.log import get_logger
from weft.frontend.serving.errors import QUARANTINED, STOPPING, ErrorInfo

_log = get_logger(__name__)

CLIENT_GONE = 499
"""Status of a request whose client left before its answer was whole. No client sees it; logs and metrics do."""


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    error: ErrorInfo


_TYPES = dict.fromkeys((400, 405, 408, 413, 415, 422, 431), "invalid_request_error") | {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
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
    if error.code == QUARANTINED:
        headers["x-should-retry"] = "false"
    if error.code == STOPPING:
        headers["connection"] = "close"
    return headers


def error_response(error: RequestError) -> Response:
    """The error with its status."""
    return Response(error_bytes(error), error.status, error_headers(error), "application/json")


def error_frame(error: RequestError) -> bytes:
    """The error inside a stream; nothing may follow it."""
    return b"data: " + error_bytes(error) + b"\n\n"


def shown_error(error: Exception) -> RequestError:
    """The error that the client sees: a request's own fault in its words; anything else goes to the log alone."""
    if isinstance(error, RequestError):
        return error
    _log.error("unexpected error in a request", exc_info=error)
    return RequestError("internal error", status=500, code="internal_error")


def refuse(param: str, problem: str, code: str = "invalid_value") -> NoReturn:
    """RequestError about the field `param`."""
    raise RequestError(f"'{param}': {problem}", param=param, code=code)


def shown_value(value: object) -> str:
    """A value for an error message: the first 40 characters of a string, 'missing', or the type of another value."""
    return repr(value[:40]) if isinstance(value, str) else "missing" if value is None else type(value).__name__


def client_gone() -> RequestError:
    """The client has left; only logs and metrics see this."""
    return RequestError("the client closed the connection", status=CLIENT_GONE, code="client_closed_request")
