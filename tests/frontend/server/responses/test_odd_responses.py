"""Requests of the Responses API in which one value is another: each is answered or refused, and no error is the
server's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent

from tests.frontend.server.conftest import Running, Start
from tests.support.bodies.odd_bodies import ODD, check_errors_are_short, odd_bodies
from tests.support.bodies.strict_models import frames, strict
from weft.frontend.chat.config import ChatConfig

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "enum": ["x", "y"]}, "b": {"anyOf": [{"type": "integer"}, {"const": 1}]}},
    "required": ["a"],
}
BODY: dict[str, Any] = {
    "model": "tiny",
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}],
         "content": [{"type": "reasoning_text", "text": "Hm."}], "encrypted_content": "x", "status": "completed"},
        {"type": "function_call", "id": "f", "call_id": "c", "name": "get", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "So.", "annotations": []}]},
        {"role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", "name": "get", "description": "d", "strict": False, "parameters": SCHEMA}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get"}]},
    "parallel_tool_calls": True,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "verbosity": "medium"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "max_output_tokens": 8,
    "metadata": {"a": "b"},
    "store": True,
    "stream": False,
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop": ["q"],
    "truncation": "disabled",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("Hello", longest=4096, chat=ChatConfig(reasoning_parser="think"))
    yield running
    running.stop()


def check(server: Running, body: Any) -> None:
    answer = server.http.post("/v1/responses", json=body)
    assert answer.status_code in (200, 400, 404), (body, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    elif answer.headers["content-type"].startswith("text/event-stream"):
        strict(ResponseStreamEvent, frames(answer.text)[-1][1])
    else:
        strict(Response, answer.json())


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_one_odd_value(server: Running, count: int) -> None:
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate])
    @given(changed=odd_bodies(BODY), stream=st.booleans())
    def one(changed: Any, stream: bool) -> None:
        check(server, {**changed, "stream": True} if stream else changed)

    assert server.http.post("/v1/responses", json=BODY).status_code == 200
    one()
    assert server.http.get("/health").status_code == 200 and server.engines.open_outputs == 0


@pytest.mark.parametrize("odd", [value for value in ODD if isinstance(value, str) and value])
def test_odd_ids(server: Running, odd: str) -> None:
    id = odd.encode().hex() if "\x00" in odd else odd
    for method, path in (("GET", id), ("DELETE", id), ("GET", f"{id}/input_items")):
        answer = server.http.request(method, f"/v1/responses/{path}")
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "response_not_found"


def test_errors_repeat_little_of_a_value(server: Running) -> None:
    check_errors_are_short(lambda body: server.http.post("/v1/responses", json=body), BODY)
