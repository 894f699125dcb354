"""Requests that cannot be served: the status, the field, and never a word to the engine."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from tests.frontend.server.conftest import Running, Start
from tests.support.tiny_chat import CONFIG
from tests.support.waiting import until
from weft.base.errors import RequestError
from weft.frontend.server.openai import parsing
from weft.frontend.server.openai.other_paths import INSTEAD, NOT_HERE
from weft.frontend.server.routes import all_operations

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "Hello"}
IMAGE = {"role": "user", "content": [{"type": "image_url"}]}
VOCAB = CONFIG["vocab_size"]


def deep(levels: int) -> Any:
    """Lists inside each other."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


BAD_EITHER: list[tuple[dict[str, Any], str | None]] = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 2**64}, "top_k"),
    ({"min_tokens": 2**64}, "min_tokens"),
    ({"truncate_prompt_tokens": -(2**64)}, "truncate_prompt_tokens"),
    ({"min_p": 2}, "min_p"),
    ({"n": 0}, "n"),
    ({"n": 10**9}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 2**70}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 100}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop_token_ids": [VOCAB]}, "stop_token_ids"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {str(VOCAB): 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {"9" * 500: 1}}, "logit_bias"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"includeUsage": True}}, "stream_options.includeUsage"),
    ({"model": 5}, "model"),
    ({"functions": [{}]}, "functions"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_object"}, "min_tokens": 2}, "min_tokens"),
    ({"guided_json": "{"}, "guided_json"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"lora_path": "x"}, "lora_path"),
    ({"best_of": 10**6}, "best_of"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"logprob_token_ids": [1]}, "logprob_token_ids"),
    ({"logprob_token_ids": ["x"]}, "logprob_token_ids[0]"),
    ({"cache_salt": "x" * 257}, "cache_salt"),
    ({"cache_salt": 5}, "cache_salt"),
    ({"stop": ["x"] * 10**5}, "stop"),
    ({"suffix": "x"}, "suffix"),
    ({"bad_words": [""]}, "bad_words"),
    ({"bad_words": ["x"] * 129}, "bad_words"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [VOCAB]}, "allowed_token_ids"),
    ({"allowed_token_ids": [97], "bad_words": ["b"], "logit_bias": {"x": 1}}, "logit_bias"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": 10**9}, "timeout"),
    ({"priority": 2**31}, "priority"),
    ({"temprature": 1}, "temprature"),
    ({"maxTokens": 1}, "maxTokens"),
    ({f"x{at}": 1 for at in range(40)}, "x32"),
]
BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [*CHAT["messages"], IMAGE]}, "messages[1].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "x" * 65, "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "tool_call_id": 5, "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ({"messages": [{"role": "assistant", "tool_calls": {}, "content": "x"}, 5]}, "messages[1]"),
    ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": {}}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "a"}}]},
        "messages[0].function_call",
    ),
    ({"messages": [{"role": "user", "content": "x", "mood": deep(70)}]}, "messages[0]"),
    ({"tools": [{"function": {"name": "a", "parameters": {"x": deep(70)}}}]}, "tools[0].function.parameters"),
    ({"tools": [{"function": {"name": "a", "parameters": {"const": 2**70}}}]}, "tools[0].function.parameters"),
    ({"tools": {}}, "tools"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tools": [{"type": {}}]}, "tools[0].type"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
    ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"function": {"name": "a", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [{"function": {"name": "a"}}] * 2}, "tools"),
    ({"tools": [{"function": {"name": "a"}}], "tool_choice": "always"}, "tool_choice"),
    ({"tools": [{"function": {"name": "a"}}], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
    (
        {"tools": [{"function": {"name": "a"}}], "tool_choice": {"type": "function", "function": {"name": "b"}}},
        "tool_choice",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "a"}}}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"thinking_token_budget": -1}, "thinking_token_budget"),
    ({"thinking_token_budget": 2**70}, "thinking_token_budget"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"thinking": {"type": "hard"}}, "thinking.type"),
    ({"messages": [{"role": "user", "content": "x" * 400}]}, "messages"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": True, "logprob_token_ids": [VOCAB]}, "logprob_token_ids"),
    ({"logprobs": True, "logprob_token_ids": [1, 1]}, "logprob_token_ids"),
    ({"logprobs": True, "logprob_token_ids": list(range(1, 130))}, "logprob_token_ids"),
    ({"max_tokens": 3, "max_completion_tokens": 3}, "max_completion_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"echo": True}, "echo"),
    ({"best_of": 4}, "best_of"),
    ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"a": {}}}, "chat_template_kwargs[...]"),
    ({"chat_template_kwargs": {f"a{i}": 1 for i in range(40)}}, "chat_template_kwargs"),
    ({"messages": [{"role": "user", "content": "x" * 10**6}]}, "messages"),
    ({"prompt": "x"}, "prompt"),
]
BAD_TEXT: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"tools": [{"function": {"name": "a"}}]}, "tools"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["x", 5]}, "prompt"),
    ({"prompt": {"text": "x"}}, "prompt"),
    ({"prompt": [VOCAB]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": ["x"] * 200}, "prompt"),
    ({"prompt": ["x"] * 10**5}, "prompt"),
    ({"prompt": ["x"] * 3, "n": 50}, "n"),
    ({"prompt": "x" * (10 << 20)}, "prompt"),
    ({"prompt": "x" * 200}, "prompt"),
    ({"prompt": "x" * 190, "max_tokens": 11}, "max_tokens"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"prompt": "x" * 10**6}, "prompt"),
    ({"prompt": ["y", "x" * 10**6]}, "prompt"),
    ({"echo": "yes"}, "echo"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"best_of": 1, "n": 0}, "n"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"best_of": 50, "prompt": ["x"] * 3}, "best_of"),
]


def refused(server: Running, path: str, body: object, status: int = 400) -> dict[str, Any]:
    steps = server.executor.steps
    answer = server.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert server.executor.steps == steps and error["code"]
    return dict(error)


@pytest.mark.parametrize(("change", "param"), BAD_EITHER, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize(
    ("path", "good"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)], ids=["chat", "text"]
)
def test_either_endpoint_names_the_field(
    alphabet: Running, path: str, good: dict[str, Any], change: dict[str, Any], param: str | None
) -> None:
    error = refused(alphabet, path, good | change)
    assert param is None or error["param"] == param


@pytest.mark.parametrize(("change", "param"), BAD_CHAT, ids=lambda value: str(value)[:40])
def test_chat_names_the_field(alphabet: Running, change: dict[str, Any], param: str) -> None:
    assert refused(alphabet, "/v1/chat/completions", CHAT | change)["param"] == param


@pytest.mark.parametrize(("change", "param"), BAD_TEXT, ids=lambda value: str(value)[:40])
def test_completions_name_the_field(alphabet: Running, change: dict[str, Any], param: str) -> None:
    assert refused(alphabet, "/v1/completions", TEXT | change)["param"] == param


def test_the_nearest_name_is_offered(alphabet: Running) -> None:
    message = refused(alphabet, "/v1/completions", TEXT | {"max_token": 1})["message"]
    assert message == "unknown field 'max_token'; did you mean 'max_tokens'?"


def test_a_prompt_longer_than_the_context_is_told_both_numbers(alphabet: Running) -> None:
    error = refused(alphabet, "/v1/completions", TEXT | {"prompt": "x" * 250})
    assert error["code"] == "context_length_exceeded"
    assert "250 tokens" in error["message"] and "200 tokens" in error["message"]


def test_another_model_is_not_found(alphabet: Running) -> None:
    error = refused(alphabet, "/v1/completions", TEXT | {"model": "gpt"}, 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"prompt": NaN}',
        b"\xff\xfe",
        b'{"prompt": 1e999}',
        b"[" * 10**5,
        b'{"prompt": ' + b"[" * 10**4 + b"]" * 10**4 + b"}",
        b'{"prompt": [' + b"1," * (1 << 20) + b"1]}",
        b'{"prompt": [' + b"[]," * (1 << 18) + b"1]}",
        b"{" + b",".join(b'"k%d":1' % i for i in range(70_000)) + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\x00b"}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "logit_bias": {"1": 1, "1" : 2}}',
        b"{" + b",".join(b'"k%d":1' % i for i in range(10**6)) + b"}",
    ],
    ids=lambda body: str(body[:20]),
)
def test_bodies_that_are_no_json_object(alphabet: Running, body: bytes) -> None:
    answer = alphabet.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1E+400"])
def test_a_number_that_is_none_is_named(alphabet: Running, number: str) -> None:
    body = f'{{"prompt": "x", "temperature" : {number}, "n": 1}}'
    answer = alphabet.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "temperature" and number in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "twice"),
    [
        ('{"prompt": "a", "n": 1, "n": 1}', "n"),
        ('{"messages": [{"role": "user", "content": "a", "role": "user"}]}', "role"),
        ('{"prompt": ["x"], "a": [1, {"b" : 1, "b": 2}]}', "b"),
        ('{"prompt": "a", "n"\t:1, "n"\n  : 2}', "n"),
        ('{"prompt": "a", "metadata": {"a  "  :1, "a  "\r\n:1}}', "a  "),
        (r'{"prompt": "a", "metadata": {"a\\": 1, "a\\": 2}}', r"a\\"),
        (r'{"prompt": "\": \\\": \\", "metadata": {"\\\"": 1, "\"": 2}}', None),
        (r'{"prompt": "she said \"n\": \"n\": \" :", "n": 1}', None),
        (r'{"messages": [{"role": "user", "content": "{\"a\": 1, \"a\": 2}"}]}', None),
        ('{"prompt": "x", "logit_bias": {"1": 1, "2": 1}, "stop": ["a", "b"], "stream_options": {}}', None),
    ],
)
def test_a_field_is_given_once(body: str, twice: str | None) -> None:
    if twice is None:
        assert parsing.json_object(body.encode()) == json.loads(body)
    else:
        with pytest.raises(RequestError, match=f"'{twice}' is given twice"):
            parsing.json_object(body.encode())


def test_a_field_that_is_given_twice_is_looked_for_at_any_depth() -> None:
    for depth in (10, *range(700, 1000), 10_000):
        body = b'{"prompt": "a", "metadata": 1, "metadata": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        with pytest.raises(RequestError, match="given twice|nested too deeply|not JSON"):
            parsing.json_object(body)


def test_bodies_of_other_kinds(alphabet: Running) -> None:
    url, http = "/v1/completions", alphabet.http
    assert http.post(url, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    assert http.post(url, content=b"{}", headers=packed).status_code == 415
    long = json.dumps(TEXT | {"user": "x" * (17 * 1024 * 1024)})
    headers = {"content-type": "application/json"}
    assert http.post(url, content=long, headers=headers).status_code == 413


def test_routes_that_are_not_there(alphabet: Running) -> None:
    assert alphabet.http.get("/redoc").status_code == 404
    assert alphabet.http.get("/v1/completions").status_code == 405
    wrong = alphabet.http.post("/v1/responses/compact", json={})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (
        405,
        "POST is not allowed at this path; legal: DELETE, GET, HEAD; POST is there for /v1/responses,"
        " /v1/responses/input_tokens",
    )
    assert alphabet.http.get("/nothing").json()["error"]["message"] == "there is no /nothing"


def test_paths_of_other_servers_lead_to_those_of_this_one(alphabet: Running) -> None:
    here = {each.shown_path for each in all_operations()}
    assert set(INSTEAD.values()) <= here and not here & {*INSTEAD, *NOT_HERE}
    for path, other in INSTEAD.items():
        answer = alphabet.http.post(path, json={})
        assert answer.status_code in (404, 405) and (other in answer.text or answer.status_code == 405), path
    for path, what in NOT_HERE.items():
        assert what in alphabet.http.post(f"{path}/x", json={}).text or path.startswith("/v1/messages")
    assert "base URL" in alphabet.http.post("/v1/v1/chat/completions", json={}).text
    assert "messages" in alphabet.http.post("/v1/complete", json={}).text


def test_a_full_queue_is_told_to_come_back(start_server: Start) -> None:
    server = start_server("abc", max_num_seqs=1, max_queued=2)
    try:
        server.executor.gate.clear()
        with contextlib.ExitStack() as waiting:
            for _ in range(3):
                waiting.enter_context(server.http.stream("POST", "/v1/completions", json=TEXT | {"stream": True}))
            answer = server.http.post("/v1/completions", json=TEXT)
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            assert answer.headers["x-should-retry"] == "true" and answer.json()["error"]["code"] == "queue_full"
            unread = server.http.post("/v1/completions", content=b"{", headers={"content-type": "application/json"})
            assert unread.status_code == 429, "a body is not looked at when there is no room"
            server.executor.gate.set()
        until(
            lambda: server.http.post("/v1/completions", json=TEXT).status_code == 200, "streams whose client left end"
        )
        assert server.client().completions.create(model="tiny", prompt="x").choices[0].text == "abc"
    finally:
        server.stop()
