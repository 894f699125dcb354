"""Chats with tools in which one value is another: each is answered or refused, and no error is the server's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from tests.frontend.server.conftest import Running, Start
from tests.support.bodies.odd_bodies import check_errors_are_short, odd_bodies

CALL = {"id": "c", "type": "function", "function": {"name": "get", "arguments": '{"a": "x"}'}}
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "enum": ["x", "y"]},
        "b": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/q"}]},
    },
    "required": ["a"],
    "$defs": {"q": {"type": "null"}},
}  # fmt: skip
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "Sunny"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "get", "description": "d", "strict": False, "parameters": SCHEMA}}
    ],
    "tool_choice": {"type": "function", "function": {"name": "get"}},
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "thinking_token_budget": 5,
    "chat_template_kwargs": {"enable_thinking": False},
    "max_tokens": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("Hello", longest=4096)
    yield running
    running.stop()


@settings(max_examples=200, deadline=None)
@given(body=odd_bodies(CHAT))
def test_one_odd_value(server: Running, body: Any) -> None:
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code in (200, 400), (body, answer.text)


def test_errors_repeat_little_of_a_value(server: Running) -> None:
    check_errors_are_short(lambda body: server.http.post("/v1/chat/completions", json=body), CHAT)
