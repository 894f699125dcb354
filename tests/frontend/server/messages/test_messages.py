"""The Messages API: whole answers and every event, as anthropic's client and its own models read them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent

from tests.frontend.server.conftest import ARGUMENTS, TWO_CALLS, Running, Start, serving
from tests.support.bodies.strict_models import frames, strict
from tests.support.waiting import PATIENCE_S
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.messages.chats import chat_of
from weft.frontend.server.messages.requests import count_tokens_request

HELLO: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [
    {
        "name": "get",
        "description": "d",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}},
    }
]
INPUT = json.loads(ARGUMENTS)


def client(server: Running, **options: Any) -> anthropic.Anthropic:
    given = {"base_url": server.url, "api_key": "none", "max_retries": 0, "timeout": PATIENCE_S}
    return anthropic.Anthropic(**{**given, **options})


def ask(server: Running, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 300, **fields}
    answer = server.http.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    strict(Message, found)
    return found


def refused(server: Running, path: str = "/v1/messages", status: int = 400, **fields: Any) -> str:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 300, **fields}
    answer = server.http.post(path, json={name: value for name, value in body.items() if value is not ...})
    assert answer.status_code == status, answer.text
    strict(anthropic.types.ErrorResponse, answer.json())
    return str(answer.json()["error"]["message"])


def events(server: Running, **fields: Any) -> list[dict[str, Any]]:
    """Events that the library's models know, in an order that the API has."""
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 300, "stream": True, **fields}
    found = frames(server.http.post("/v1/messages", json=body).text)
    assert all(name == data["type"] for name, data in found)
    made = [data for name, data in found if name != "ping"]
    for data in made:
        strict(RawMessageStreamEvent, data)
    assert [data["type"] for data in made[-2:]] == ["message_delta", "message_stop"]
    assert made[0]["type"] == "message_start" and made[0]["message"]["content"] == []
    return made


def test_a_whole_answer(alphabet: Running) -> None:
    found = ask(alphabet)
    assert found["content"] == [{"type": "text", "text": "abcdefghijklmnopqrstuvwxyz"}]
    assert found["stop_reason"] == "end_turn" and found["stop_sequence"] is None and found["role"] == "assistant"
    assert found["id"].startswith("msg_") and found["model"] == "tiny" and found["usage"]["output_tokens"] == 27


def test_the_client_reads_whole_answers_streams_and_counts(alphabet: Running) -> None:
    with client(alphabet) as reader:
        made = reader.messages.create(model="tiny", max_tokens=100, messages=HELLO)
        assert isinstance(made.content[0], anthropic.types.TextBlock) and made.content[0].text.startswith("abc")
        with reader.messages.stream(model="tiny", max_tokens=5, messages=HELLO) as stream:
            assert "".join(stream.text_stream) == "abcde"
            final = stream.get_final_message()
        assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 5
        assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == made.usage.input_tokens + (
            made.usage.cache_read_input_tokens or 0
        )
        count = reader.messages.count_tokens(model="tiny", messages=HELLO)
        assert count.input_tokens == made.usage.input_tokens + (made.usage.cache_read_input_tokens or 0)


def test_events_of_text(alphabet: Running) -> None:
    first, start, *deltas, stop, end, _ = events(alphabet, max_tokens=6)
    assert first["message"]["stop_reason"] is None and first["message"]["usage"]["output_tokens"] == 0
    assert start == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert "".join(delta["delta"]["text"] for delta in deltas) == "abcdef"
    assert stop == {"type": "content_block_stop", "index": 0}
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == 6


def test_calls_of_a_whole_answer(caller: Running) -> None:
    found = ask(caller, tools=TOOLS)
    text, first, second = found["content"]
    assert text["text"] == "So: 1 < 2." and found["stop_reason"] == "tool_use"
    assert first["name"] == "get" and first["input"] == second["input"] == INPUT and first["id"] != second["id"]


def test_calls_of_a_stream(caller: Running) -> None:
    """Blocks one after the other; the arguments joined are the whole answer's."""
    found = events(caller, tools=TOOLS)
    starts = [event for event in found if event["type"] == "content_block_start"]
    assert [event["content_block"]["type"] for event in starts] == ["text", "tool_use", "tool_use"]
    assert [event["index"] for event in starts] == [0, 1, 2] and starts[1]["content_block"]["input"] == {}
    for index in (1, 2):
        parts = [
            e["delta"]["partial_json"] for e in found if e["type"] == "content_block_delta" and e["index"] == index
        ]
        assert json.loads("".join(parts)) == INPUT
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    with client(caller) as reader, reader.messages.stream(
        model="tiny", max_tokens=300, messages=HELLO, tools=TOOLS
    ) as stream:  # fmt: skip
        final = stream.get_final_message()
    assert [block.input for block in final.content if block.type == "tool_use"] == [INPUT, INPUT]


def test_a_call_that_is_cut_off_has_the_members_that_are_whole(caller: Running) -> None:
    found = ask(caller, tools=TOOLS, max_tokens=TWO_CALLS.index('is", "n"'))
    assert found["stop_reason"] == "max_tokens" and found["content"][1]["input"] == {}
    found = ask(caller, tools=TOOLS, max_tokens=TWO_CALLS.index("2}"))
    assert found["content"][1]["input"] == {"city": 'Par"is'}


@pytest.mark.parametrize(
    ("choice", "kinds"),
    [({"type": "none"}, ["text"]), ({"type": "auto"}, ["text", "tool_use", "tool_use"])],
)  # fmt: skip
def test_choices_of_tools(caller: Running, choice: Any, kinds: list[str]) -> None:
    assert [block["type"] for block in ask(caller, tools=TOOLS, tool_choice=choice)["content"]] == kinds


def test_thoughts_are_blocks_and_come_back(thinker: Running) -> None:
    found = ask(thinker)
    thought, text = found["content"]
    assert thought["thinking"] == "Let me see." and thought["signature"] and text["text"] == "It is so."
    made = events(thinker)
    deltas = [event["delta"] for event in made if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Let me see."
    assert [delta["signature"] for delta in deltas if "signature" in delta] == [thought["signature"]]
    for usage in (found["usage"], made[-2]["usage"]):
        assert 0 < usage["output_tokens_details"]["thinking_tokens"] < usage["output_tokens"]
    assert made[-2]["usage"] == {**found["usage"], **{name: made[-2]["usage"][name] for name in
                                 ("input_tokens", "cache_read_input_tokens", "output_tokens_details")}}  # fmt: skip
    again = [*HELLO, {"role": "assistant", "content": found["content"]}, *HELLO]
    assert ask(thinker, messages=again)["content"][1]["text"] == "It is so."


def test_thoughts_may_be_left_out(thinker: Running) -> None:
    omitted = {"type": "adaptive", "display": "omitted"}
    assert [block["type"] for block in ask(thinker, thinking=omitted)["content"]] == ["text"]
    starts = [event for event in events(thinker, thinking=omitted) if event["type"] == "content_block_start"]
    assert [event["index"] for event in starts] == [0]


def test_a_conversation_with_calls_goes_on(caller: Running) -> None:
    first = ask(caller, tools=TOOLS)["content"]
    calls = [block for block in first if block["type"] == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": calls[0]["id"], "content": "Sunny"},
        {"type": "tool_result", "tool_use_id": calls[1]["id"], "is_error": True,
         "content": [{"type": "text", "text": "no such city", "cache_control": {"type": "ephemeral"}}]},
        {"type": "text", "text": "Go on."},
    ]  # fmt: skip
    turns = [*HELLO, {"role": "assistant", "content": first}, {"role": "user", "content": results}]
    prompt = written(caller, messages=turns, tools=TOOLS, system=[{"type": "text", "text": "Be brief."}])
    assert all(text in prompt for text in ("Be brief.", "Sunny", "Error: no such city", "Go on.", "# Tools"))
    assert ask(caller, messages=turns, tools=TOOLS)["stop_reason"] == "tool_use"


def written(server: Running, **fields: Any) -> str:
    """The prompt that a request becomes: that of the chat which has the same number of tokens."""
    chat = chat_of(count_tokens_request(json.dumps(fields).encode(), Notes()), {})
    names = ("messages", "tools", "continue_final_message", "enable_thinking")
    body = {name: value for name in names if (value := getattr(chat, name)) is not None}
    ids = server.http.post("/tokenize", json=body).json()["tokens"]
    count = server.http.post("/v1/messages/count_tokens", json=fields).json()
    assert strict(MessageTokensCount, count).input_tokens == len(ids)
    return str(server.http.post("/detokenize", json={"tokens": ids}).json()["prompt"])


def test_a_last_turn_of_the_assistant_goes_on(alphabet: Running) -> None:
    turns = [*HELLO, {"role": "assistant", "content": "The answer is"}]
    assert written(alphabet, messages=turns).endswith("The answer is")
    assert ask(alphabet, messages=turns, max_tokens=3)["content"][0]["text"] == "abc"


def test_turns_of_one_role_are_one_turn(alphabet: Running) -> None:
    turns = [{"role": "user", "content": "One"}, {"role": "user", "content": [{"type": "text", "text": "Two"}]}]
    assert "One\nTwo" in written(alphabet, messages=turns)


def test_what_an_agent_adds_for_its_maker_is_no_part_of_the_prompt(alphabet: Running) -> None:
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1"}, {"type": "text", "text": "Help."}]
    assert "billing" not in written(alphabet, messages=HELLO, system=system)


def test_older_thoughts_may_be_cleared() -> None:
    turns = []
    for thought in ("one", "two", "three"):
        blocks = [{"type": "thinking", "thinking": thought, "signature": "s"}, {"type": "text", "text": "a"}]
        turns += [{"role": "user", "content": "q"}, {"role": "assistant", "content": blocks}]
    for keep, left in (({"type": "thinking_turns", "value": 2}, ["two", "three"]), ("all", ["one", "two", "three"])):
        edit = {"type": "clear_thinking_20251015", "keep": keep}
        body = {"messages": [*turns, *HELLO], "context_management": {"edits": [edit]}}
        chat = chat_of(count_tokens_request(json.dumps(body).encode(), Notes()), {})
        assert [one["reasoning_content"] for one in chat.messages if "reasoning_content" in one] == left


def test_stop_sequences(alphabet: Running) -> None:
    found = ask(alphabet, stop_sequences=["hi", "de"])
    assert found["stop_reason"] == "stop_sequence" and found["stop_sequence"] == "de"
    assert found["content"][0]["text"] == "abc"
    assert events(alphabet, stop_sequences=["de"])[-2]["delta"]["stop_sequence"] == "de"


def test_an_answer_may_end_with_the_context(start_server: Start) -> None:
    """Agents ask for more tokens than any context here has."""
    server = start_server("abcdefghij" * 20)
    try:
        found = ask(server, max_tokens=64_000)
        assert found["stop_reason"] == "model_context_window_exceeded"
        assert found["usage"]["output_tokens"] + found["usage"]["input_tokens"] <= 200
    finally:
        server.stop()


def test_no_tokens_at_all_fill_the_cache(alphabet: Running) -> None:
    found = ask(alphabet, max_tokens=0)
    assert found["content"] == [] and found["usage"]["output_tokens"] == 0 and found["stop_reason"] == "max_tokens"


def test_a_schema_that_cannot_be_held_is_refused(alphabet: Running) -> None:
    """A schema that no grammar can hold is refused."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "not": {"type": "null"}}
    message = refused(alphabet, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert "'output_config.format.schema" in message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": ...}, "'max_tokens' is missing"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'messages[0].role'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'messages[0].content[0].type'"),
        ({"system": [{"type": "image"}]}, "'system[0].type'"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "any"}},
         "'tool_choice'"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}, *TOOLS],
          "tool_choice": {"type": "tool", "name": "web_search"}}, "'tool_choice'"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "'tools[0].name'"),
        ({"tools": [{"name": "a", "input_schema": []}]}, "'tools[0].input_schema'"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "other"}}, "'tool_choice'"),
        ({"thinking": {"type": "enabled"}}, "'thinking.budget_tokens'"),
        ({"temperature": -1}, "temperature -1"),
        ({"stop_sequences": [""]}, "stop_sequences ''"),
        ({"stop_sequence": ["a"]}, "did you mean 'stop_sequences'"),
        ({"container": "c"}, "'container' is not supported"),
        ({"messages": [*HELLO, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "get", "input": {}}]}]}, "'tool_use' whose result is missing"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_in_this_apis_words(alphabet: Running, fields: Any, words: str) -> None:
    assert words in refused(alphabet, **fields)


def test_errors_have_this_apis_shape_wherever_they_come_from(alphabet: Running) -> None:
    assert "other" in refused(alphabet, status=404, model="other")
    for method, status in (("GET", 405), ("DELETE", 405)):
        answer = alphabet.http.request(method, "/v1/messages")
        assert answer.status_code == status and answer.json()["type"] == "error"
    answer = alphabet.http.post("/v1/messages", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
    with client(alphabet) as reader, pytest.raises(anthropic.BadRequestError, match="temperature"):
        reader.messages.create(model="tiny", max_tokens=3, messages=HELLO, extra_body={"temperature": -1.0})


def test_labels_headers_and_keys(start_server: Start) -> None:
    with serving(start_server, "abc", http=HttpConfig(api_key="secret")) as server:
        with client(server, api_key="secret") as reader:
            made = reader.messages.create(
                model="tiny", max_tokens=10, messages=HELLO, metadata={"user_id": "u"}, service_tier="auto",
                extra_headers={"anthropic-beta": "prompt-caching-2024-07-31"}, extra_query={"beta": "true"},
            )  # fmt: skip
            assert made.stop_reason == "end_turn"
        with client(server, api_key="wrong") as reader, pytest.raises(anthropic.AuthenticationError):
            reader.messages.create(model="tiny", max_tokens=10, messages=HELLO)


def test_a_stream_that_breaks_ends_with_an_error(start_server: Start) -> None:
    with serving(start_server, "abc" * 100, step_s=0.1) as server:
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 300, "stream": True}
        with server.http.stream("POST", "/v1/messages", json=body) as answer:
            text, stopped = "", False
            try:
                for part in answer.iter_text():
                    text += part
                    if "text_delta" in text and not stopped:
                        stopped = True
                        server.loop.call_soon_threadsafe(server.engines.stop)
            except Exception as error:  # the connection ends without the end of a body
                assert "incomplete" in str(error) or "peer" in str(error)
        name, data = frames(text)[-1]
        assert name == "error" and data["error"]["type"] == "overloaded_error"


def test_models_in_the_shape_of_this_api(alphabet: Running) -> None:
    with anthropic.Anthropic(base_url=alphabet.url, api_key="none", max_retries=0) as client:
        (found,) = client.models.list().data
        assert found == client.models.retrieve("tiny") and found.id == "tiny"
    headers = {"anthropic-version": "2023-06-01"}
    strict(ModelInfo, alphabet.http.get("/v1/models", headers=headers).json()["data"][0])
    assert alphabet.http.get("/v1/models").json()["object"] == "list"
