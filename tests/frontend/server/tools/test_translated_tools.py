"""Tools that are no functions: as the official clients send them, and as their models read the calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from anthropic import types as anthropic_types
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseStreamEvent

from tests.frontend.server.conftest import Running, Start, serving
from tests.support.bodies.strict_models import frames, strict
from weft.frontend.server.fields.notes import HEADER
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.tools.client_tools import client_function, client_types
from weft.frontend.server.tools.translation import arguments_of, name_in, name_without, text_of

PATCH = '*** "Begin" \\ patch\n+ é\n'
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
READ = {"type": "function", "name": "read", "parameters": PARAMETERS}
FILES = {"type": "namespace", "name": "mcp__files", "description": "Files.", "tools": [READ]}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
CUSTOM = {"type": "custom", "name": "patch", "format": GRAMMAR}
SERVERS = [{"type": "web_search", "external_web_access": True}, {"type": "image_generation"}, {"type": "local_shell"}]


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture(scope="module")
def agent(start_server: Start) -> Iterator[Running]:
    text = "\n".join([call("mcp__files__read", '{"path": "a"}'), call("patch", arguments_of(PATCH))])
    with serving(start_server, text) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_responses_have_the_clients_names_back(agent: Running, stream: bool) -> None:
    body = {"input": "Hi", "tools": [*SERVERS, FILES, CUSTOM], "stream": stream}
    answer = agent.http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers[HEADER] == "tools[0].web_search; tools[1].image_generation; tools[2].local_shell"
    if stream:
        events = frames(answer.text)
        for name, data in events:
            assert strict(ResponseStreamEvent, data).type == name
        texts = {data["item_id"]: data["delta"] for name, data in events if name.endswith("input.delta")}
        assert [*texts.values()] == [PATCH]
        last: Any = events[-1][1]["response"]
    else:
        last = answer.json()
    made = strict(Response, last)
    read, patch = made.output
    assert (read.type, read.namespace, read.name, read.arguments) == (
        "function_call", "mcp__files", "read", '{"path": "a"}',
    )  # fmt: skip
    assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "patch", PATCH)
    assert [tool.type for tool in made.tools] == ["namespace", "custom"]
    later = [
        *last["output"],
        {"type": "function_call_output", "call_id": read.call_id, "output": "x"},
        {"type": "custom_tool_call_output", "call_id": patch.call_id, "output": "y"},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
    ]
    again = agent.http.post("/v1/responses", json={**body, "stream": False, "input": [*HELLO, *later]})
    assert again.status_code == 200 and "input[].web_search_call" in again.headers[HEADER], again.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_calls_custom_tools(agent: Running, stream: bool) -> None:
    tool = {"type": "custom", "custom": {"name": "patch", "description": "Changes files."}}
    other = {"type": "function", "function": {"name": "mcp__files__read"}}
    body = {"messages": HELLO, "tools": [tool, {"type": "web_search"}, other], "stream": stream}
    answer = agent.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.headers[HEADER] == "tools[1].web_search", answer.text
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        calls = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("tool_calls", [])]
        (made,) = [one for one in calls if one.get("type") == "custom"]
        assert made["custom"] == {"name": "patch", "input": PATCH} and made["index"] == 1 and "function" not in made
        assert {one["index"] for one in calls if "function" in one} == {0}
    else:
        message = strict(ChatCompletion, without_extensions(answer.json())).choices[0].message
        assert message.tool_calls[1].custom.input == PATCH
        turn = {"role": "assistant", "tool_calls": answer.json()["choices"][0]["message"]["tool_calls"]}
        results = [{"role": "tool", "tool_call_id": one["id"], "content": "x"} for one in turn["tool_calls"]]
        again = agent.http.post("/v1/chat/completions", json=body | {"messages": [*HELLO, turn, *results]})
        assert again.status_code == 200, again.text


def without_extensions(body: dict[str, Any]) -> dict[str, Any]:
    """Fields of vLLM's that openai's models do not have."""
    choices = [
        {name: value for name, value in choice.items() if name not in ("stop_reason", "token_ids")}
        for choice in body["choices"]
    ]
    kept = {name: value for name, value in body.items() if name not in ("prompt_token_ids", "prompt_logprobs")}
    return kept | {"choices": choices}


def test_a_forced_custom_tool_is_called(start_server: Start) -> None:
    """With its choice in either API's words."""
    with serving(start_server, call("patch", arguments_of("x"))) as server:
        chosen = {"type": "custom", "name": "patch"}
        found = server.http.post("/v1/responses", json={"input": "Hi", "tools": [CUSTOM], "tool_choice": chosen})
        assert found.json()["output"][0]["input"] == "x", found.text
        tool = {"type": "custom", "custom": {"name": "patch"}}
        body = {"messages": HELLO, "tools": [tool], "tool_choice": tool}
        found = server.http.post("/v1/chat/completions", json=body)
        assert found.json()["choices"][0]["message"]["tool_calls"][0]["custom"]["input"] == "x", found.text


def test_strict_requests_refuse_a_servers_tools(start_server: Start) -> None:
    with serving(start_server, "x", http=HttpConfig(strict_requests=True)) as server:
        for path, body in (
            ("/v1/responses", {"input": "Hi", "tools": SERVERS}),
            ("/v1/messages", {"messages": HELLO, "max_tokens": 2, "tools": [{"type": "web_search_20250305"}]}),
            ("/v1/chat/completions", {"messages": HELLO, "tools": [{"type": "web_search"}]}),
        ):
            refused = server.http.post(path, json=body)
            assert refused.status_code == 400 and "tools[0].type" in refused.text


ANTHROPICS = [
    {"type": "bash_20250124", "name": "bash"},
    {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 5},
    {"type": "memory_20250818", "name": "memory"},
    {"type": "computer_20250124", "name": "computer", "display_width_px": 800, "display_height_px": 600},
]


def test_anthropics_client_tools_are_called(start_server: Start) -> None:
    with serving(start_server, call("bash", '{"command": "ls"}')) as server:
        search = {"type": "web_search_20250305", "name": "web_search"}
        body = {"messages": HELLO, "max_tokens": 200, "tools": [search, ANTHROPICS[0]]}
        for one in ANTHROPICS:
            count = server.http.post("/v1/messages/count_tokens", json={"messages": HELLO, "tools": [one]})
            assert count.json()["input_tokens"] > 300
        for choice in ({"type": "auto"}, {"type": "tool", "name": "bash"}):
            answer = server.http.post("/v1/messages", json=body | {"tool_choice": choice})
            assert answer.status_code == 200, answer.text
            assert answer.headers[HEADER] == "tools[0].web_search_20250305"
            (block,) = strict(Message, answer.json()).content
            assert (block.name, block.input) == ("bash", {"command": "ls"})


def test_every_client_tool_has_a_schema() -> None:
    """Those that the library of Anthropic names have rows, with the library's names."""
    for kind in client_types():
        function = client_function({"type": kind})
        assert function is not None
        jsonschema.Draft202012Validator.check_schema(function["parameters"])
        assert set(function["parameters"]["required"]) <= set(function["parameters"]["properties"])
    for record, kind in (
        (anthropic_types.ToolBash20250124Param, "bash_20250124"),
        (anthropic_types.ToolTextEditor20250124Param, "text_editor_20250124"),
        (anthropic_types.ToolTextEditor20250728Param, "text_editor_20250728"),
    ):
        made = client_function({"type": kind})
        assert made is not None and f"'{made['name']}'" in str(record.__annotations__["name"])


@given(st.text(), st.sampled_from(["a", "a__", "mcp__x"]), st.text("abc_", min_size=1))
def test_there_and_back(text: str, namespace: str, name: str) -> None:
    arguments = arguments_of(text)
    assert text_of(arguments) == text and name_without(namespace, name_in(namespace, name)) == name
    for end in range(len(arguments)):
        assert text_of(arguments[:end], whole=False) in (None, text)
