"""Access to routes: every route declares the key it needs, keys are compared as digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from weft.base.errors import ConfigError, RequestError
from weft.frontend.server.errors import error_response

Endpoint = Callable[[Request], Awaitable[Response]]


class Access(StrEnum):
    """`open`: every client that reaches the server. `user`: with the API key, where one is set. `admin`: with the admin
    key, where one is set, else the API key."""

    OPEN = "open"
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Keys:
    """Digests of the keys; the keys themselves are not kept."""

    user: bytes | None = None
    admin: bytes | None = None

    @classmethod
    def of(cls, user: str | None, admin: str | None) -> Keys:
        """ConfigError: one of them is empty, or both are the same."""
        for name, key in (("api_key", user), ("admin_key", admin)):
            if key is not None and not key.strip():
                raise ConfigError(f"{name} is empty; leave it out or give a secret of one or more characters")
        if user is not None and user == admin:
            raise ConfigError("admin_key is the same as api_key; legal: two different keys", field="admin_key")
        sent = (None if key is None else key.encode("utf-8", "surrogateescape") for key in (user, admin))
        return cls(*map(_digest, sent))

    def allows(self, request: Request, access: Access) -> bool:
        """Whether the request may have what is declared as `access`."""
        try:
            self.check(request, access)
        except RequestError:
            return False
        return True

    def check(self, request: Request, access: Access) -> None:
        """RequestError 401: no key, or a wrong one; 403: a key, but not the one for this route."""
        if access is Access.OPEN:
            return
        needed = self.admin if access is Access.ADMIN and self.admin is not None else self.user
        if needed is None and self.admin is None:
            return
        is_user, is_admin = self._holds(request)
        if is_admin or (needed is self.user and (is_user or needed is None)):
            return
        if is_user:
            raise RequestError("this key may not use this route", status=403, code="forbidden")
        raise RequestError("the API key is missing or wrong", status=401, code="invalid_api_key")

    def _holds(self, request: Request) -> tuple[bool, bool]:
        """Whether the request has the API key, and the admin key."""
        given = [_digest(key) or b"" for key in _sent(request)]
        # All comparisons are always made, so that the time taken reveals nothing.
        user, admin = ([hmac.compare_digest(one, key or bytes(32)) for one in given] for key in (self.user, self.admin))
        return any(user), any(admin)

    def holder(self, request: Request) -> str:
        """The key that the request has, as a name: what is stored with one key cannot be read with another."""
        is_user, is_admin = self._holds(request)
        return "admin" if is_admin else "user" if is_user else ""


def _digest(key: bytes | None) -> bytes | None:
    return None if key is None else hashlib.sha256(key).digest()


def _sent(request: Request) -> tuple[bytes | None, bytes | None]:
    """The keys of `authorization: Bearer KEY` and `x-api-key: KEY`, as they were sent; a key anywhere else, as in the
    URL, is none."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    other = request.headers.get("x-api-key")
    bearer = key.strip(" \t").encode("latin-1") if kind.lower() == "bearer" else None
    return bearer, None if other is None else other.strip(" \t").encode("latin-1")


class GuardedRoute(Route):
    """A route with declared access. `refusal`: makes the responses of errors."""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        methods: list[str],
        access: Access,
        refusal: Callable[[RequestError], Response] = error_response,
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.access, self.refusal = access, refusal


def check_declared(routes: Sequence[BaseRoute]) -> None:
    """ConfigError naming the first route that does not declare its access: such a server must not start."""
    for route in routes:
        if not isinstance(getattr(route, "access", None), Access):
            raise ConfigError(f"route {getattr(route, 'path', route)} does not declare who may call it")


def read_key(given: str | None, file: Path | None, environ: str | None, name: str) -> str | None:
    """The key of an option, a file's first line, or the environment, in this order. ConfigError: the file cannot be
    read or is empty, or option and file are both given."""
    if given is not None and file is not None:
        raise ConfigError(f"--{name} and --{name}-file both give the key; leave one out", field=name.replace("-", "_"))
    if given is not None:
        return given
    if file is None:
        return environ or None
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"--{name}-file {file}: {reason}", field=name.replace("-", "_")) from error
    if not lines or not lines[0].strip():
        raise ConfigError(f"--{name}-file {file}: the first line is empty", field=name.replace("-", "_"))
    return lines[0].strip()
