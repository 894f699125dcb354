"""Gate: what every request passes before its endpoint, and what becomes of an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from weft.base.errors import RequestError
from weft.frontend.server.errors import client_gone, error_response, shown_error
from weft.frontend.server.http.access import Access, Endpoint, GuardedRoute, Keys
from weft.frontend.server.http.hosts import Hosts

Refusal = Callable[[RequestError], Response]
"""Makes the response of an error: each API has its own shape."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The host names and the keys of a server."""

    hosts: Hosts
    keys: Keys

    def route(
        self, path: str, endpoint: Endpoint, method: str, access: Access, refusal: Refusal = error_response
    ) -> GuardedRoute:
        """Every fault of a request ends in an error object; nothing of an unexpected one reaches the client."""

        async def guarded(request: Request) -> Response:
            try:
                self.hosts.check(request.headers.get("host", ""))
                self.keys.check(request, access)
                return await endpoint(request)
            except ClientDisconnect:
                return refusal(client_gone())
            except Exception as error:  # one request's code path must not end the server
                return refusal(shown_error(error))

        return GuardedRoute(path, guarded, [method], access, refusal)
