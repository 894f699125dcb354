"""Operations: what a route is, declared once beside its endpoint, and read by access rules, the OpenAPI document, the
table of routes in the docs, and tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from weft.frontend.server.errors import ErrorBody, error_response
from weft.frontend.server.http.access import Access, GuardedRoute
from weft.frontend.server.http.gate import Gate, Refusal

JSON = "application/json"
DECLARED = "operations"
"""Attribute of an endpoint that has them."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What the routes of one API share. `error`, `refusal`: the record of errors, and what makes a response of one.
    `left_aside`: fields of bodies that are accepted and change nothing."""

    error: type = ErrorBody
    refusal: Refusal = error_response
    left_aside: frozenset[str] = frozenset()

    def route(self, method: str, *paths: str, access: Access, says: str, **more: Any) -> Callable[[F], F]:
        """Declares the decorated method of a class of endpoints as what answers at `paths`. `more`: further fields of
        the operation."""

        def declare(endpoint: F) -> F:
            for path in paths:
                made = Operation(api=self, method=method, path=path, access=access, says=says, **more)
                endpoint.__dict__.setdefault(DECLARED, []).append(made)
            return endpoint

        return declare


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`says`: what it does. `takes`: records of its body. `gives`: the record of its answer; None: of no schema.
    `events`: what a stream has: records, or str where these are chunks of text."""

    api: Api
    method: str
    path: str
    access: Access
    says: str
    takes: tuple[type, ...] = ()
    gives: type | None = None
    media: str = JSON
    events: tuple[type, ...] = ()
    example: object = None

    @property
    def shown_path(self) -> str:
        """As documents have it: parameters without their patterns."""
        return re.sub(r"{(\w+)[^}]*}", r"{\1}", self.path)


def declared(kinds: Iterable[type]) -> list[Operation]:
    """The operations of classes of endpoints, in their order."""
    return [operation for kind in kinds for _, operation in _named(kind)]


def routes_of(gate: Gate, endpoints: Iterable[object]) -> Iterator[GuardedRoute]:
    """The routes that objects with endpoints have declared."""
    for one in endpoints:
        for name, each in _named(type(one)):
            yield gate.route(each.path, getattr(one, name), each.method, each.access, each.api.refusal)


def _named(kind: type) -> Iterator[tuple[str, Operation]]:
    for name, endpoint in vars(kind).items():
        for operation in getattr(endpoint, DECLARED, ()):
            yield name, operation
