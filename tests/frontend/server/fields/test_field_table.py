"""The table of request fields: what is in it, what a server does with each row, and with a field that is in none."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

import pytest
from anthropic.types import RawMessageStreamEvent
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent

from tests.frontend.server.conftest import Running, Start, serving
from tests.support.bodies.strict_models import strict as strict_record
from weft.base.errors import RequestError
from weft.frontend.server.fields.notes import HEADER, MOST_NAMES, Notes
from weft.frontend.server.fields.table import ApiName, FieldTable, paths_of, shape_of, written_rows
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.messages.requests import CountTokensRequest, MessagesRequest
from weft.frontend.server.openai.parsing import chat_request
from weft.frontend.server.openai.requests import ChatRequest, CompletionRequest, TokenizeChatRequest, TokenizeRequest
from weft.frontend.server.responses.requests import ResponsesRequest

HELLO = [{"role": "user", "content": "Hi"}]
RECORDS: dict[ApiName, tuple[Any, ...]] = {
    "chat": (ChatRequest,),
    "completions": (CompletionRequest,),
    "tokenizer": (TokenizeChatRequest, TokenizeRequest),
    "responses": (ResponsesRequest,),
    "messages": (MessagesRequest, CountTokensRequest),
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1]},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": HELLO},
}
PATHS = dict(
    zip(RECORDS, ("/v1/chat/completions", "/v1/completions", "/tokenize", "/v1/responses", "/v1/messages"), strict=True)
)


@pytest.fixture(scope="module")
def strict(start_server: Start) -> Iterator[Running]:
    with serving(start_server, "abc", http=HttpConfig(strict_requests=True)) as running:
        yield running


def test_a_field_has_one_row() -> None:
    for api in get_args(ApiName):
        paths = [row.path for row in written_rows() if api in row.apis]
        assert len(set(paths)) == len(paths), api
        heeded = [set(paths_of(shape_of(record))) for record in RECORDS[api]]
        assert not set.intersection(*heeded) & set(paths), api
    for row in written_rows():
        assert row.apis and row.reason and (row.verdict == "refused" or not row.taken)


def nested(path: str, value: object) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize("api", RECORDS)
@pytest.mark.parametrize("value", [{"x": [1]}, None], ids=str)
def test_each_row_is_obeyed(alphabet: Running, strict: Running, api: ApiName, value: object) -> None:
    """Without effect: any value, and no word about it. Refused: by name, but for null."""
    for row, server in product(written_rows(), (alphabet, strict)):
        if api not in row.apis or row.path in shape_of(RECORDS[api][0]):
            continue
        body = {"messages": HELLO} if api == "tokenizer" else BODIES[PATHS[api]]
        answer = server.http.post(PATHS[api], json=body | nested(row.path, value))
        if row.verdict == "without effect" and row.path.startswith("stream_options"):
            continue  # legal in streams only
        is_refused = row.verdict == "refused" and value is not None
        assert answer.status_code == (400 if is_refused else 200), (row.path, answer.text)
        assert HEADER not in answer.headers
        assert not is_refused or (row.path in answer.text and row.reason in answer.text)


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_field_is_left_out_and_said(
    alphabet: Running, strict: Running, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    body, draw = BODIES[path], random.Random(5)
    name = "zq_" + path.replace("/", "_")
    with caplog.at_level(logging.INFO):
        values: tuple[Any, ...] = (1, "x", {"a": None}, [], True)
        for value in values:
            answer = alphabet.http.post(path, json=body | {name: value, f"zq_{draw.random()}": None})
            assert answer.status_code == 200 and answer.headers[HEADER] == name, answer.text
    assert sum(name in record.getMessage() for record in caplog.records) == 1
    refused = strict.http.post(path, json=body | {name: 1})
    assert refused.status_code == 400 and name in refused.text and HEADER not in refused.headers
    assert strict.http.post(path, json=body).status_code == 200


def test_a_stream_says_it_in_its_head(alphabet: Running) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        answer = alphabet.http.post(path, json=BODIES[path] | {"stream": True, "zq\n\u00e9": 1})
        assert answer.status_code == 200 and answer.headers[HEADER] == r"zq\n\xe9"


def misspelt(name: str, draw: random.Random) -> str:
    """One letter dropped, doubled or changed, or two that changed places, or another convention."""
    at = draw.randrange(1, len(name) - 1)
    ways = [
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
    ]
    return draw.choice([*ways, name.title().replace("_", ""), name.replace("_", "-").upper()])


def test_a_misspelt_field_is_refused_with_the_right_name() -> None:
    draw = random.Random(7)
    for api, records in RECORDS.items():
        table, shape = FieldTable(api), shape_of(records[0])
        for name in [each for each in shape if len(each) >= 8]:
            wrong = misspelt(name, draw)
            if wrong in shape or wrong == name:
                continue
            with pytest.raises(RequestError) as refused:
                table.known({wrong: 1}, records[0], Notes())
            assert "did you mean" in str(refused.value), (wrong, name)


def test_other_words_are_none_of_them() -> None:
    """What clients send today and no record has."""
    notes = Notes()
    words = ["thread", "top_secret", "client_info", "n_probs", "telemetry", "logging", "cost", "tags", "prompt_id"]
    for api, records in RECORDS.items():
        assert FieldTable(api).known(dict.fromkeys(words, 1), records[0], notes) == {}
    assert set(words) - {"thread"} == set(notes.names)


def test_nested_fields_are_looked_at_and_data_is_not() -> None:
    notes = Notes()
    schema = {"properties": {"a": None, "stream": {"zq": None}}, "zq": None}
    body = {
        "messages": [{"role": "user", "content": None, "zq": None}],
        "response_format": {"type": "json_schema", "zq": 1, "json_schema": {"schema": schema, "strict": None, "zq": 2}},
        "stream_options": {"include_usage": None, "include_obfuscation": True},
        "chat_template_kwargs": {"a": None},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": None}}],
        "temperature": None,
    }
    found = FieldTable("chat").known(body, ChatRequest, notes)
    assert notes.names == ["response_format.zq", "response_format.json_schema.zq"]
    assert found["response_format"] == {"type": "json_schema", "json_schema": {"schema": schema}}
    assert {name: found[name] for name in ("messages", "chat_template_kwargs", "tools")} == {
        name: body[name] for name in ("messages", "chat_template_kwargs", "tools")
    }
    assert found["stream_options"] == {} and "temperature" not in found
    edits = {"context_management": {"edits": [{"type": "a"}, {"type": "b", "zq": 1, "keep": None}]}}
    kept = FieldTable("messages").known(edits, MessagesRequest, notes)
    assert kept == {"context_management": {"edits": [{"type": "a"}, {"type": "b"}]}}
    assert notes.names[-1] == "context_management.edits[1].zq"


def test_names_are_bounded() -> None:
    table, notes = FieldTable("chat"), Notes()
    table.known({"z" * 10_000: 1}, ChatRequest, notes)
    assert len(notes.names[0]) == 64
    with pytest.raises(RequestError):
        table.known({f"zq{at}": 1 for at in range(MOST_NAMES)}, ChatRequest, notes)


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/responses", {"include": ["web_search_call.action.sources"]}, "include[0].web_search_call.action.sources"),
        ("/v1/messages", {"context_management": {"edits": [{"type": "compact_20260112"}]}},
         "context_management.edits[0].compact_20260112"),
        ("/v1/messages", {"thinking": {"type": "adaptive", "zq": 1}}, "thinking.zq"),
        ("/v1/responses", {"reasoning": {"effort": "low", "zq": 1}}, "reasoning.zq"),
    ],
)  # fmt: skip
def test_values_that_are_left_out(
    alphabet: Running, strict: Running, path: str, fields: dict[str, Any], named: str
) -> None:
    answer = alphabet.http.post(path, json=BODIES[path] | fields)
    assert answer.status_code == 200 and answer.headers[HEADER] == named, answer.text
    assert strict.http.post(path, json=BODIES[path] | fields).status_code == 400


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning": {"enabled": False}, "thinking": {"type": "enabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, {"enable_thinking": True, "thinking_token_budget": 7}),
        ({"thinking": {"type": "auto"}}, {"enable_thinking": None}),
        ({"reasoning": {"max_tokens": 3, "exclude": True}}, {"thinking_token_budget": 3, "include_reasoning": False}),
        ({"thinking_budget": 0, "thinking": {"type": "auto", "budget_tokens": 7}}, {"thinking_token_budget": 0}),
    ],
)  # fmt: skip
def test_reasoning_in_other_words(fields: dict[str, Any], made: dict[str, Any]) -> None:
    asked = chat_request(json.dumps({"messages": HELLO, **fields}).encode(), Notes(), {})
    assert {name: getattr(asked, name) for name in made} == made


EVENTS: dict[ApiName, Any] = {
    "chat": ChatCompletionChunk,
    "responses": ResponseStreamEvent,
    "messages": RawMessageStreamEvent,
}
EXTENSIONS = {"stop_reason", "token_ids", "reasoning_content", "reasoning"}


@pytest.mark.parametrize("api", EVENTS)
def test_every_event_keeps_its_shape_whatever_else_is_asked(caller: Running, api: ApiName) -> None:
    """All fields of the record null, all rows without effect, unknown ones beside them; with text and with calls."""
    path = PATHS[api]
    others: dict[str, Any] = dict.fromkeys(shape_of(RECORDS[api][0])) | {"zq1": 1, "zq2": [None]}
    rows = [row.path for row in written_rows() if api in row.apis and row.verdict == "without effect"]
    others |= {name: {"x": None} for name in rows if "." not in name}
    function = {"name": "get", "parameters": {"type": "object", "properties": {}}}
    tools: dict[str, Any] = {
        "chat": {"type": "function", "function": function},
        "responses": {"type": "function", **function, "strict": None},
        "messages": {"name": "get", "input_schema": function["parameters"], "strict": None},
    }
    for more in ({}, {"tools": [tools[api]]}):
        body = {**others, **BODIES[path], "stream": True, **more}
        answer = caller.http.post(path, json=body | {"max_tokens" if api != "responses" else "max_output_tokens": 900})
        assert answer.status_code == 200 and answer.headers[HEADER] == "zq1; zq2", answer.text
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        assert len(lines) > 3
        for line in lines:
            if line == '{"type":"ping"}':
                continue  # the library drops it unread
            strict_record(EVENTS[api], without(EXTENSIONS if api == "chat" else set(), json.loads(line)))


def without(names: set[str], value: Any) -> Any:
    if isinstance(value, list):
        return [without(names, one) for one in value]
    if isinstance(value, dict):
        return {name: without(names, one) for name, one in value.items() if name not in names}
    return value
