"""/openapi.json against the server: random bodies after the document, 480 (long: 6,520 more), never meet a 5xx."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core import NotSet

from tests.frontend.server.conftest import Running, Start
from weft.frontend.server.http.config import http_settings

ROOT = Path(__file__).resolve().parents[4]
JSON_BODY = {"content-type": "application/json"}
POSTS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
    "/tokenize", "/detokenize",
)  # fmt: skip
ENDS = re.compile(r'(data: \[DONE\]|"type":"message_stop"}|"type":"response.(completed|incomplete)".*)\n\n\Z')
ONE_BY_ONE = settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
"""Each example is a call of a running server: nothing to shrink, nothing to keep."""


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("abcdef", max_queued=2000, max_num_seqs=64)
    yield running
    running.stop()


def test_the_document_is_one(server: Running) -> None:
    document = server.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    chat = document["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False and chat["required"] == ["messages"]
    assert chat["properties"]["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 128}


def test_the_page_lists_every_code_and_option() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "weft" / "frontend" / "server").glob("*.py"))
    codes = set(re.findall(r'code="([a-z_]+)"', sources)) - {"client_closed_request"}
    assert codes <= set(re.findall(r"`([a-z_]+)`", page))
    assert {flag for setting in http_settings() for flag in setting.option.flags} <= set(
        re.findall(r"`(--[a-z-]+)`", page)
    )


def cases(server: Running, path: str, count: int, mode: schemathesis.GenerationMode) -> None:
    """`count` random calls of a route: no 5xx but the deadline that a request itself sets, and every end is one."""
    operation = schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())[path]["POST"]

    @settings(ONE_BY_ONE, max_examples=count)
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        headers = {name: value for name, value in (case.headers or {}).items() if value.isascii()}
        answer = server.http.post(path, content=_bytes(case.body), headers=JSON_BODY | headers)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert answer.status_code < 500 or error["code"] == "deadline_exceeded", answer.text
            assert (answer.json().get("type") == "error") == path.startswith("/v1/messages")
            assert error["message"] and "Traceback" not in error["message"]
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert ENDS.search(answer.text)

    one()
    assert server.http.get("/health").status_code == 200 and server.engines.open_outputs == 0


MODES = list(schemathesis.GenerationMode)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("count", [20, pytest.param(815, marks=pytest.mark.long)])
def test_no_body_breaks_the_server(server: Running, path: str, mode: schemathesis.GenerationMode, count: int) -> None:
    cases(server, path, count, mode)


NAMES = st.sampled_from(["prompt", "messages", "n", "stop", "logit_bias", "role", "content", "tokens"]) | st.text()
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@settings(ONE_BY_ONE, max_examples=40)
@given(body=JSON)
def test_no_json_breaks_the_server(server: Running, body: Any) -> None:
    for path in POSTS:
        status = server.http.post(path, json=_plain(body)).status_code
        assert 400 <= status < 500 or (status == 200 and isinstance(body, dict))


def _bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    try:
        return b"" if isinstance(body, NotSet) else json.dumps(body).encode()
    except TypeError:  # bytes somewhere inside, which JSON has no word for
        return json.dumps(str(body)).encode()


def _plain(value: Any) -> Any:
    """Without what JSON cannot say."""
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
