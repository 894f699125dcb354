"""Notes: what a request has that its answer leaves out. Said in the log, once a name, and in a header."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import Scope

from weft.base.errors import RequestError
from weft.base.log import get_logger

_log = get_logger(__name__)

HEADER = "x-weft-left-out"
"""Of an answer: fields and tools of its request that changed nothing, as this server does not have them."""
MAX_SHOWN = 1024
"""Characters of that header."""
MOST_NAMES = 32
"""Names of one request: more are no hints, and each is compared with all that are known."""
MOST_LOGGED = 1000
_SCOPE = "weft.notes"


class Notes:
    """Of one request. `strict`: nothing is left out, but refused. `logged`: names that the log has, of all requests."""

    def __init__(self, logged: set[str] | None = None, *, strict: bool = False) -> None:
        self.strict, self.names = strict, list[str]()
        self._logged = set() if logged is None else logged

    def leave_out(self, name: str, why: str) -> None:
        """RequestError: there are too many. `name`: a path, shortened by the caller where a client chose it."""
        shown = name.encode("unicode_escape").decode()
        if shown in self.names:
            return
        if len(self.names) == MOST_NAMES:
            message = f"the request has more than {MOST_NAMES} fields that are left out, such as '{shown}'"
            raise RequestError(message, param=name, code="unknown_parameter")
        self.names.append(shown)
        if shown not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(shown)
            _log.info("'%s' of a request is left out: %s", shown, why)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the answer."""
        text = "; ".join(self.names)
        shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
        return [(HEADER.encode(), shown.encode())] if text else []


def keep_notes(request: Request, notes: Notes) -> None:
    """Makes them the request's."""
    request.scope[_SCOPE] = notes


def notes_of(scope: Scope) -> Notes:
    """Those of the request; empty ones before its body is read."""
    found: Notes = scope.get(_SCOPE) or Notes()
    return found
