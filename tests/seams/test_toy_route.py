"""A route in one file: its one declaration is what is served, checked, documented and listed."""

from __future__ import annotations

import asyncio
import json

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from scripts import reference
from weft.base.errors import RequestError
from weft.frontend.server.http.access import Access, Keys, check_declared
from weft.frontend.server.http.gate import Gate
from weft.frontend.server.http.hosts import Hosts
from weft.frontend.server.openapi import document
from weft.frontend.server.operations import Api, declared, routes_of
from weft.frontend.server.routes import all_operations


class WeaveRequest(msgspec.Struct):
    """/weave."""

    threads: int


class WeaveReply(msgspec.Struct):
    """What is woven."""

    cloth: str


def refusal(error: RequestError) -> Response:
    """Errors of this API."""
    return Response(f"no: {error}", error.status)


TOY = Api(refusal=refusal, left_aside=frozenset({"color"}))


class ToyEndpoints:
    """One route, and a method that is none."""

    @TOY.route(
        "POST", "/weave/{kind:path}", access=Access.ADMIN, says="Weaves `threads`",
        takes=(WeaveRequest,), gives=WeaveReply, example={"threads": 2},
    )  # fmt: skip
    async def weave(self, request: Request) -> Response:
        """Cloth."""
        asked = msgspec.json.decode(await request.body(), type=WeaveRequest)
        return Response(msgspec.json.encode(WeaveReply(request.path_params["kind"] * asked.threads)))

    async def unravel(self, request: Request) -> Response:
        """Nothing declares it."""
        raise AssertionError


OPERATIONS = [*all_operations(), *declared([ToyEndpoints])]
ROUTES = list(routes_of(Gate(Hosts(), Keys.of("user", "admin")), [ToyEndpoints()]))


def asked(key: str, method: str = "POST") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=ROUTES))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, "/weave/ab", json={"threads": 2}, headers={"x-api-key": key})

    return asyncio.run(ask())


@pytest.mark.parametrize(("key", "status"), [("", 401), ("other", 401), ("user", 403), ("admin", 200)])
def test_it_is_checked_and_served(key: str, status: int) -> None:
    check_declared(ROUTES)
    answer = asked(key)
    assert answer.status_code == status
    assert answer.json() == {"cloth": "abab"} if status == 200 else answer.text.startswith("no: ")
    assert asked("admin", "GET").status_code == 405


def test_it_is_in_the_document() -> None:
    made = json.loads(document(OPERATIONS))
    assert set(made["paths"]) == {each.shown_path for each in OPERATIONS}
    operation = made["paths"]["/weave/{kind}"]["post"]
    assert operation["summary"] == "Weaves `threads`" and operation["security"]
    assert [each["name"] for each in operation["parameters"]] == ["kind"]
    body = operation["requestBody"]["content"]["application/json"]
    assert body == {"schema": {"$ref": "#/components/schemas/WeaveRequest"}, "example": {"threads": 2}}
    fields = made["components"]["schemas"]["WeaveRequest"]
    assert set(fields["properties"]) == {"threads", "color"} and fields["additionalProperties"] is False
    assert "WeaveReply" in made["components"]["schemas"] and "unravel" not in str(made)


def test_it_is_in_the_table_of_routes() -> None:
    assert "| `POST /weave/{kind}` | admin | Weaves `threads` |" in reference.routes(OPERATIONS).splitlines()
