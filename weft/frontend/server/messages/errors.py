"""Errors in the shape of the Messages API."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.frontend.server.errors import error_headers
from weft.frontend.server.messages.records import MessagesError, MessagesFault

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def messages_error(error: RequestError) -> MessagesError:
    """The error object; the message names the field."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return MessagesError(MessagesFault(kind, str(error)))


def refusal(error: RequestError) -> Response:
    """The error with its status."""
    body = msgspec.json.encode(messages_error(error))
    return Response(body, error.status, error_headers(error), "application/json")
