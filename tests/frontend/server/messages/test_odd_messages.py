"""Requests of the Messages API in which one value is another: each is answered or refused in the API's own shape, and
no error is the server's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageTokensCount
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.frontend.server.conftest import Running, Start
from tests.support.bodies.odd_bodies import check_errors_are_short, odd_bodies
from tests.support.bodies.strict_models import frames, strict
from weft.frontend.chat.config import ChatConfig

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "enum": ["x", "y"]}, "b": {"anyOf": [{"type": "integer"}, {"const": 1}]}},
    "required": ["a"],
}
CACHED = {"cache_control": {"type": "ephemeral"}}
PROMPT: dict[str, Any] = {
    "model": "tiny",
    "system": [{"type": "text", "text": "Be brief.", **CACHED}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi", **CACHED}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "c", "name": "get", "input": {"a": "x"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c", "is_error": False, "content": [{"type": "text", "text": "1"}]},
            {"type": "text", "text": "So?"},
        ]},
    ],
    "tools": [
        {"name": "get", "description": "d", "strict": False, "input_schema": SCHEMA, "input_examples": [{"a": "x"}]},
    ],
    "tool_choice": {"type": "tool", "name": "get", "disable_parallel_tool_use": True},
    "thinking": {"type": "adaptive", "budget_tokens": None, "display": "summarized"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "context_management": {
        "edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}],
    },
}  # fmt: skip
CREATE = PROMPT | {
    "max_tokens": 8, "stream": False, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_sequences": ["q", "z"],
}  # fmt: skip
COUNTS = [60, pytest.param(2000, marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("Hello", longest=4096, chat=ChatConfig(reasoning_parser="think"))
    yield running
    running.stop()


def check(server: Running, path: str, body: Any, kind: Any) -> None:
    answer = server.http.post(path, json=body)
    assert answer.status_code in (200, 400, 404), (body, answer.text)
    if answer.status_code != 200:
        strict(anthropic.types.ErrorResponse, answer.json())
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert frames(answer.text)[-1][0] == "message_stop"
    else:
        strict(kind, answer.json())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [("/v1/messages", CREATE, Message), ("/v1/messages/count_tokens", PROMPT, MessageTokensCount)],
    ids=["create", "count"],
)
def test_one_odd_value(server: Running, path: str, body: Any, kind: Any, count: int) -> None:
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate])
    @given(changed=odd_bodies(body), stream=st.booleans())
    def one(changed: Any, stream: bool) -> None:
        check(server, path, {**changed, "stream": True} if stream and kind is Message else changed, kind)

    check(server, path, body, kind)
    assert server.http.post(path, json=body).status_code == 200
    one()
    assert server.http.get("/health").status_code == 200 and server.engines.open_outputs == 0


def test_errors_repeat_little_of_a_value(server: Running) -> None:
    check_errors_are_short(lambda body: server.http.post("/v1/messages", json=body), CREATE)
