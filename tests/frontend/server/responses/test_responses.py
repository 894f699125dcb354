"""The Responses API: whole answers and every event, as OpenAI's client and its own models read them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList

from tests.frontend.server.conftest import ARGUMENTS, Running, Start, serving
from tests.support.bodies.strict_models import frames, strict
from weft.frontend.server.fields.notes import Notes
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.responses.items import chat_messages, checked_items

TOOLS: Any = [
    {
        "type": "function",
        "name": "get",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}},
    }
]
LOGPROBS = ["message.output_text.logprobs"]


def ask(server: Running, **fields: Any) -> dict[str, Any]:
    answer = server.http.post("/v1/responses", json={"input": "Hi", **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    strict(Response, found)
    return found


def refused(server: Running, status: int = 400, **fields: Any) -> dict[str, Any]:
    body = {"input": "Hi", **fields}
    answer = server.http.post("/v1/responses", json={name: value for name, value in body.items() if value is not ...})
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def events(server: Running, **fields: Any) -> list[dict[str, Any]]:
    """Events that the library's models know, numbered from 0."""
    found = frames(server.http.post("/v1/responses", json={"input": "Hi", "stream": True, **fields}).text)
    assert all(name == data["type"] for name, data in found)
    made = [data for _, data in found]
    for data in made:
        strict(ResponseStreamEvent, data)
    assert [data["sequence_number"] for data in made] == [*range(len(made))]
    assert [data["type"] for data in made[:2]] == ["response.created", "response.in_progress"]
    assert made[0]["response"]["output"] == [] and made[0]["response"]["status"] == "in_progress"
    return made


def kinds(found: list[dict[str, Any]]) -> list[str]:
    """Types of events, each run of deltas once."""
    names = [event["type"].removeprefix("response.") for event in found]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def alike(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Equal but for ids, which differ, times, and tokens of reasoning, which are counted by pieces."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("id", "call_id", "created_at", "completed_at", "input_tokens_details", "output_tokens_details")
            return {name: plain(one) for name, one in value.items() if name not in left_out}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return bool(plain(first) == plain(second))


MESSAGE = [
    "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
    "output_item.done",
]  # fmt: skip
REASONING = [name.replace("output_text", "reasoning_text") for name in MESSAGE]
A_CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
BEGINS = ["created", "in_progress"]


def test_a_whole_answer(alphabet: Running) -> None:
    found = ask(alphabet, instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert found["output"][0]["content"][0]["text"] == "abcdefghijklmnopqrstuvwxyz"
    assert found["status"] == "completed" and found["id"].startswith("resp_") and found["metadata"] == {"a": "b"}
    assert found["usage"]["output_tokens"] == 27 and found["instructions"] == "Be brief."
    assert found["usage"]["total_tokens"] == found["usage"]["input_tokens"] + 27 and found["temperature"] == 0.5


def test_the_client_reads_answers_streams_and_what_is_stored(alphabet: Running) -> None:
    reader = alphabet.client().responses
    made = reader.create(model="tiny", input="Hi")
    assert made.output_text.startswith("abc")
    assert reader.retrieve(made.id).output_text == made.output_text
    assert [item.type for item in reader.input_items.list(made.id)] == ["message"]
    with reader.stream(model="tiny", input="Hi") as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
        text = "".join(event.delta for event in deltas)
        assert deltas[0].snapshot == deltas[0].delta and deltas[-1].snapshot == text
        assert stream.get_final_response().output_text == text == made.output_text
    reader.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="it was not stored, or was dropped"):
        reader.retrieve(made.id)


def test_events_of_text(alphabet: Running) -> None:
    found = events(alphabet, max_output_tokens=6)
    assert kinds(found) == [*BEGINS, *MESSAGE, "incomplete"]
    text = "".join(event["delta"] for event in found if "delta" in event)
    assert text == "abcdef" == next(event["text"] for event in found if event["type"].endswith("text.done"))
    last = found[-1]["response"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"} and last["output"][0]["status"] == "incomplete"
    assert last["usage"]["output_tokens"] == 6
    assert found[2]["item"]["content"] == [] and found[3]["part"]["text"] == ""
    assert alike(ask(alphabet, max_output_tokens=6), last)
    assert kinds(events(alphabet))[-1] == "completed"


def test_calls(caller: Running) -> None:
    """A stream's last event has the whole answer's output; the deltas joined are its texts."""
    whole = ask(caller, tools=TOOLS)
    message, first, second = whole["output"]
    assert message["content"][0]["text"] == "So: 1 < 2." and first["arguments"] == second["arguments"] == ARGUMENTS
    assert first["call_id"] != second["call_id"] and first["id"] != second["id"]
    found = events(caller, tools=TOOLS)
    assert kinds(found) == [*BEGINS, *MESSAGE, *A_CALL, *A_CALL, "completed"]
    assert alike(whole, found[-1]["response"])
    for index in (1, 2):
        deltas = [event["delta"] for event in found if "delta" in event and event["output_index"] == index]
        assert "".join(deltas) == ARGUMENTS
        added = [event for event in found if event["type"] == "response.output_item.added"]
        assert added[index]["item"]["arguments"] == ""


def test_reasoning_is_an_item_and_comes_back(thinker: Running) -> None:
    whole = ask(thinker, reasoning={"effort": "low", "summary": "auto"}, include=["reasoning.encrypted_content"])
    thought, message = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me see."}] and thought["summary"] == []
    assert message["content"][0]["text"] == "It is so."
    assert 0 < whole["usage"]["output_tokens_details"]["reasoning_tokens"] < whole["usage"]["output_tokens"]
    bare = ask(thinker, include_reasoning=False, chat_template_kwargs={"enable_thinking": True})
    assert [item["type"] for item in bare["output"]] == [item["type"] for item in whole["output"][1:]]
    found = events(thinker, reasoning={"effort": "low"})
    assert kinds(found) == [*BEGINS, *REASONING, *MESSAGE, "completed"] and alike(whole, found[-1]["response"])
    again = ask(
        thinker, input=[{"role": "user", "content": "Hi"}, *whole["output"], {"role": "user", "content": "So?"}]
    )
    assert again["output"][1]["content"][0]["text"] == "It is so."


def test_an_empty_answer_has_an_empty_text(start_server: Start) -> None:
    with serving(start_server, "") as server:
        assert ask(server)["output"][0]["content"][0]["text"] == ""
        assert kinds(events(server)) == [
            *BEGINS,
            *(name for name in MESSAGE if name != "output_text.delta"),
            "completed",
        ]


def test_log_probabilities(alphabet: Running) -> None:
    found = ask(alphabet, include=LOGPROBS, top_logprobs=2, max_output_tokens=3)
    entries = found["output"][0]["content"][0]["logprobs"]
    assert [entry["token"] for entry in entries] == ["a", "b", "c"] and len(entries[0]["top_logprobs"]) == 2
    made = events(alphabet, include=LOGPROBS, top_logprobs=2, max_output_tokens=3)
    tokens = [one["token"] for event in made if event["type"].endswith("text.delta") for one in event["logprobs"]]
    assert tokens == ["a", "b", "c"]


def test_a_conversation_goes_on_from_what_is_stored(caller: Running) -> None:
    """Items of both requests, in order; the instructions are each request's own."""
    first = ask(caller, tools=TOOLS, instructions="Be brief.")
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"} for call in calls]
    second = ask(caller, tools=TOOLS, input=results, previous_response_id=first["id"])
    assert second["instructions"] is None and second["previous_response_id"] == first["id"]
    listed = caller.http.get(f"/v1/responses/{second['id']}/input_items", params={"order": "asc"}).json()
    strict(ResponseItemList, listed)
    assert [item["type"] for item in listed["data"]] == [
        "message", "message", "function_call", "function_call", "function_call_output", "function_call_output",
    ]  # fmt: skip
    sent = [{"role": "user", "content": "Hi"}, *first["output"], *results]
    assert ask(caller, tools=TOOLS, input=sent)["usage"]["input_tokens"] == second["usage"]["input_tokens"]
    asked: Any = {"model": "tiny", "tools": TOOLS, "input": results, "previous_response_id": first["id"]}
    counted = caller.client().responses.input_tokens.count(**asked)
    assert counted.to_dict() == {"object": "response.input_tokens", "input_tokens": second["usage"]["input_tokens"]}


def test_pages_of_items(alphabet: Running) -> None:
    items = [{"role": "user", "content": f"{number}"} for number in range(5)]
    path = f"/v1/responses/{ask(alphabet, input=items)['id']}/input_items"
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = alphabet.http.get(path, params={"limit": 2, **after}).json()
        strict(ResponseItemList, page)
        seen += [item["content"][0]["text"] for item in page["data"]]
        after = {"after": page["last_id"]}
        if not page["has_more"]:
            break
    assert seen == ["4", "3", "2", "1", "0"]
    for query in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": "nothing"}):
        assert alphabet.http.get(path, params=query).status_code == 400


def test_what_is_not_to_be_stored_is_not(alphabet: Running) -> None:
    id = ask(alphabet, store=False)["id"]
    assert alphabet.http.get(f"/v1/responses/{id}").status_code == 404
    error = refused(alphabet, 404, previous_response_id=id)
    assert error["param"] == "previous_response_id" and error["code"] == "response_not_found"
    assert alphabet.http.delete(f"/v1/responses/{id}").status_code == 404
    assert alphabet.http.get(f"/v1/responses/{ask(alphabet)['id']}", params={"stream": "true"}).status_code == 400


def test_each_key_has_its_own_store(start_server: Start) -> None:
    with serving(start_server, "abc", http=HttpConfig(api_key="user", admin_key="admin")) as server:

        def of(key: str) -> dict[str, str]:
            return {"authorization": f"Bearer {key}"}

        id = server.http.post("/v1/responses", json={"input": "Hi"}, headers=of("user")).json()["id"]
        assert server.http.get(f"/v1/responses/{id}", headers=of("user")).status_code == 200
        assert server.http.get(f"/v1/responses/{id}", headers=of("admin")).status_code == 404
        assert server.http.get(f"/v1/responses/{id}").status_code == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ...}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]}, "input[0].call_id"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": 1}]}, "tools[0].tools"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b c"}]}]},
         "tools[0].tools[0].name"),
        ({"tools": [{"type": "custom", "name": "b c"}]}, "tools[0].name"),
        ({"input": [{"type": "custom_tool_call", "call_id": "a", "name": "a"}]}, "input[0].input"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a", "parameters": []}]}, "tools[0].parameters"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": TOOLS}}, "tool_choice.mode"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "strict": True, "schema": {"not": {}}}}},
         "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 100_000}, "max_output_tokens"),
        ({"metadata": {str(at): "" for at in range(17)}}, "metadata"),
        ({"background": True}, "background"),
        ({"stream_options": {}}, "stream_options"),
        ({"text": {"formats": {}}}, "text.formats"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_in_this_apis_words(alphabet: Running, fields: Any, param: str) -> None:
    error = refused(alphabet, **fields)
    assert error["param"] == param and (param in error["message"] or param == "tool_choice.mode")


def test_fields_without_effect_and_choices(caller: Running) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get"}]}
    found = ask(caller, tools=TOOLS, tool_choice=allowed, user="u", service_tier="auto", prompt_cache_key="k",
                background=False, text={"format": {"type": "text"}, "verbosity": "medium"})  # fmt: skip
    assert len(found["output"]) == 3 and found["tool_choice"] == allowed
    assert [item["type"] for item in ask(caller, tools=TOOLS, tool_choice="none")["output"]] == ["message"]


def test_a_stream_that_breaks_ends_with_a_failure(start_server: Start) -> None:
    with serving(start_server, "abc" * 100, step_s=0.1) as server:
        text, stopped = "", False
        with server.http.stream("POST", "/v1/responses", json={"input": "Hi", "stream": True}) as answer:
            try:
                for part in answer.iter_text():
                    text += part
                    if "text.delta" in text and not stopped:
                        stopped = True
                        server.loop.call_soon_threadsafe(server.engines.stop)
            except Exception as error:  # the connection ends without the end of a body
                assert "incomplete" in str(error) or "peer" in str(error)
        name, data = frames(text)[-1]
        strict(ResponseStreamEvent, data)
        assert name == "response.failed" and data["response"]["error"]["code"] == "server_error"
        sent = data["response"]["output"][0]["content"][0]["text"]
        assert sent and ("abc" * 100).startswith(sent)


def test_items_of_an_assistant_become_messages() -> None:
    def reasoning(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}

    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    text = {"role": "assistant", "content": "a"}
    items = [
        {"role": "system", "content": "s"}, {"role": "user", "content": "q"}, reasoning("one"), call, call,
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "r"}]},
        reasoning("two"), text, call, reasoning("three"), text,
    ]  # fmt: skip
    made = chat_messages(checked_items(json.loads(json.dumps(items)), Notes()), "i")
    shown = [
        (one["role"], one["content"], one.get("reasoning_content"), len(one.get("tool_calls", []))) for one in made
    ]
    assert shown == [
        ("system", "i\n\ns", None, 0), ("user", "q", None, 0), ("assistant", "", "one", 2), ("tool", "r", None, 0),
        ("assistant", "a", "two", 1), ("assistant", "a", "three", 0),
    ]  # fmt: skip
