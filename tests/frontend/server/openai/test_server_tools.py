"""Tool calls and reasoning over HTTP: what the scripted model says, as the official client reads it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError

from tests.frontend.server.conftest import THINKS, Running, Start, serving
from weft.engine.core.choice import ChoiceDelta
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.config import ChatConfig, ChatForms
from weft.frontend.chat.reasoning_forms import REASONING_FORMS, Thinking
from weft.frontend.server.answer_reader import reasoning_tokens_of
from weft.frontend.server.http.config import HttpConfig

HELLO: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}},
        },
    }
]
ARGUMENTS = '{"city":  "Par\\"is"}'
CALL = f'<tool_call>\n{{"name": "get", "arguments": {ARGUMENTS}}}\n</tool_call>'
TEXT = f"So: 1 < 2.\n{CALL}\n{CALL}"


@pytest.fixture(scope="module")
def caller(start_server: Start) -> Iterator[Running]:
    with serving(start_server, TEXT) as running:
        yield running


def ask(server: Running, **fields: Any) -> Any:
    return server.client().chat.completions.create(
        **{"model": "tiny", "messages": HELLO, "tools": TOOLS, "max_tokens": 300, **fields}
    )


def test_calls_of_a_whole_answer(caller: Running) -> None:
    choice = ask(caller).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "So: 1 < 2."
    first, second = choice.message.tool_calls
    assert first.type == "function" and first.function.name == "get" and first.function.arguments == ARGUMENTS
    assert second.function.arguments == ARGUMENTS and first.id != second.id and first.id.startswith("call_")


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"mode": "required", "tools": []}, "tool_choice.allowed_tools.tools"),
        (
            {"mode": "some", "tools": [{"type": "function", "function": {"name": "get"}}]},
            "tool_choice.allowed_tools.mode",
        ),
    ],
)
def test_allowed_tools_are_named_and_have_a_mode(caller: Running, choice: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(caller, tool_choice={"type": "allowed_tools", "allowed_tools": choice})
    assert refused.value.param == param


def test_a_turn_of_the_assistant_may_be_empty(caller: Running) -> None:
    assert ask(caller, messages=[*HELLO, {"role": "assistant", "content": None}, *HELLO]).choices[0].message.tool_calls


def test_calls_of_a_stream(caller: Running) -> None:
    """Index, id, type and name first, then arguments; pieces joined are the whole answer's."""
    chunks = list(ask(caller, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "So: 1 < 2."
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    for index in (0, 1):
        first, *more = [call for call in calls if call.index == index]
        assert first.id and first.type == "function" and (first.function.name, first.function.arguments) == ("get", "")
        assert all(call.id is None and call.type is None and call.function.name is None for call in more)
        assert "".join(call.function.arguments for call in more) == ARGUMENTS
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[0].usage.prompt_tokens == chunks[-1].usage.prompt_tokens > 0
    assert chunks[0].usage.completion_tokens == 0


def test_pieces_have_all_log_probabilities(caller: Running) -> None:
    chunks = list(ask(caller, stream=True, logprobs=True))
    tokens = [one.token for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert "".join(tokens).startswith(TEXT)


def test_an_answer_that_is_cut_off_has_what_there_is(caller: Running) -> None:
    length = TEXT.index("Par")
    choice = ask(caller, max_tokens=length).choices[0]
    assert choice.finish_reason == "length" and choice.message.tool_calls[0].function.arguments == '{"city":  "'
    chunks = list(ask(caller, max_tokens=length, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(call.function.arguments for call in calls) == '{"city":  "'
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_the_head_of_a_call_that_is_cut_off_is_no_text(caller: Running, choice: str) -> None:
    """By max_tokens and by a stop string, streamed and not."""
    heads = [TEXT.index(CALL) + len("<tool_call>") + more for more in (0, 1, 6, 20)]
    cuts: list[dict[str, Any]] = [{"max_tokens": head} for head in heads]
    for cut in [*cuts, {"stop": '"arguments"'}]:
        found = ask(caller, tool_choice=choice, **cut).choices[0]
        assert (found.message.content, found.message.tool_calls) == ("So: 1 < 2.", None)
        assert found.finish_reason == ("stop" if "stop" in cut else "length")
        deltas = [chunk.choices[0].delta for chunk in ask(caller, tool_choice=choice, stream=True, **cut)]
        assert "".join(delta.content or "" for delta in deltas) == "So: 1 < 2."
        assert not any(delta.tool_calls for delta in deltas)


def test_a_stop_string_inside_a_call_ends_no_call(caller: Running) -> None:
    found = ask(caller, stop="is").choices[0]
    assert found.finish_reason == "stop" and found.message.tool_calls[0].function.arguments == '{"city":  "Par\\"'
    assert list(ask(caller, stop="is", stream=True))[-1].choices[0].finish_reason == "stop"
    assert ask(caller, stop="</tool_call>").choices[0].finish_reason == "tool_calls"


def test_without_tools_or_choice_calls_are_text(caller: Running) -> None:
    for fields in ({"tools": None}, {"tool_choice": "none"}):
        message = ask(caller, **fields).choices[0].message
        assert message.content == TEXT and message.tool_calls is None


def test_tools_are_described_in_the_prompt(caller: Running) -> None:
    body = {"messages": HELLO, "tools": TOOLS}
    ids = caller.http.post("/tokenize", json=body).json()["tokens"]
    prompt = caller.http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert "# Tools" in prompt and '"name": "get"' in prompt
    assert ask(caller).usage.prompt_tokens == len(ids)


def test_a_conversation_with_calls_goes_on(caller: Running) -> None:
    first = ask(caller).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Sunny"} for call in first.tool_calls]
    answer = ask(caller, messages=[*HELLO, first.model_dump(), *results])
    assert answer.choices[0].finish_reason == "tool_calls"


def test_keywords_that_are_left_out_are_named(caller: Running) -> None:
    loose = {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "not": {"type": "null"}}}}
    answer = caller.http.post("/v1/chat/completions", json={"messages": HELLO, "tools": [loose], "max_tokens": 3})
    assert answer.status_code == 200 and "get: not" in answer.headers["x-weft-schema-left-out"]


NOT_HELD = {"type": "object", "not": {"type": "null"}}


@pytest.mark.parametrize(
    ("function", "fields", "param"),
    [
        ({"parameters": {"properties": 5}}, {}, "tools[0].function.parameters"),
        ({"parameters": {"properties": {"a": {"type": "x"}}}}, {}, "tools[0].function.parameters"),
        ({"parameters": NOT_HELD, "strict": True}, {}, "tools[0].function.parameters"),
        ({}, {"tool_choice": "required", "min_tokens": 1}, "min_tokens"),
        ({}, {"parallel_tool_calls": False, "min_tokens": 1}, "min_tokens"),
        ({"strict": True}, {"min_tokens": 1}, "min_tokens"),
    ],
)
def test_what_no_grammar_holds_is_refused(
    caller: Running, function: dict[str, Any], fields: dict[str, Any], param: str
) -> None:
    tools = [{"type": "function", "function": {"name": "get", **function}}]
    answer = caller.http.post("/v1/chat/completions", json={"messages": HELLO, "tools": tools, **fields})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_elements_name_what_they_do_not_hold(start_server: Start) -> None:
    """Texts without JSON's quotes: a format is left out by name, or refused."""
    parameters = {"type": "object", "properties": {"day": {"type": "string", "format": "date", "maxLength": 10}}}
    with serving(start_server, "x", chat=ChatConfig(tool_call_parser="qwen3_coder")) as server:
        for strict, status in ((False, 200), (True, 400)):
            tool = {"type": "function", "function": {"name": "get", "parameters": parameters, "strict": strict}}
            answer = server.http.post("/v1/chat/completions", json={"messages": HELLO, "tools": [tool]})
            assert answer.status_code == status, answer.text
            if strict:
                error = answer.json()["error"]
                assert (
                    error["param"] == "tools[0].function.parameters"
                    and "'format' at '/properties/day'" in error["message"]
                )
            else:
                assert answer.headers["x-weft-schema-left-out"] == "get: format at /properties/day"


def test_rules_that_go_with_no_grammar_leave_calls_to_be_read(caller: Running) -> None:
    choice = ask(caller, extra_body={"min_tokens": 1}).choices[0]
    assert choice.finish_reason == "tool_calls"


def test_what_a_whole_answer_says_besides(caller: Running) -> None:
    body = caller.http.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 3}).json()
    assert body["prompt_logprobs"] is None and body["prompt_token_ids"] is None
    assert body["choices"][0]["token_ids"] is None and "system_fingerprint" in body
    body = caller.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).json()["choices"][0]
    assert body["prompt_logprobs"] is None and body["token_ids"] is None and body["prompt_token_ids"] is None


def test_tools_can_be_refused(start_server: Start) -> None:
    with serving(start_server, "x", chat=ChatConfig(tool_call_parser="none")) as server:
        answer = server.http.post("/v1/chat/completions", json={"messages": HELLO, "tools": TOOLS})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "tools"
        assert "--tool-call-parser none" in answer.json()["error"]["message"]


def test_usage_can_always_be_sent(start_server: Start) -> None:
    with serving(start_server, "x", http=HttpConfig(enable_force_include_usage=True)) as server:
        chunks = list(ask(server, tools=None, stream=True))
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        assert counts in ([0, 1, 2, 2], [0, 2, 2])  # a slow server sends both tokens at once
        assert chunks[-1].usage.completion_tokens == 2 and not chunks[-1].choices


THOUGHT = f"<think>\nHm, 2 > 1\n</think>\n\nYes.\n{CALL}"


@pytest.fixture(scope="module")
def thinker(start_server: Start) -> Iterator[Running]:
    with serving(start_server, THOUGHT, chat=ChatConfig(reasoning_parser="qwen3")) as running:
        yield running


def test_reasoning_is_split(thinker: Running) -> None:
    message = ask(thinker).choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm, 2 > 1", "Yes.")
    assert message.reasoning == message.reasoning_content
    assert message.tool_calls[0].function.arguments == ARGUMENTS
    message = ask(thinker, tools=None).choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm, 2 > 1", f"Yes.\n{CALL}")
    hidden = ask(thinker, extra_body={"include_reasoning": False}).choices[0].message
    assert not hasattr(hidden, "reasoning_content") and not hasattr(hidden, "reasoning") and hidden.content == "Yes."


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_tokens_of_reasoning_are_counted_in_pieces(size: int) -> None:
    """Each character is a token. How many of the marks count depends on the pieces."""
    rules = AnswerRules(forms=ChatForms(reasoning=REASONING_FORMS["think"]), thinking=Thinking.MAY)
    texts = [THOUGHT[at : at + size] for at in range(0, len(THOUGHT), size)]
    count = reasoning_tokens_of(rules, [ChoiceDelta(text, [0] * len(text)) for text in texts])
    assert len("Hm, 2 > 1") <= count <= len("<think>\nHm, 2 > 1\n</think>\n\n")


@pytest.mark.parametrize("fields", [{}, {"tools": None}, {"extra_body": {"include_reasoning": False}}])
def test_usage_counts_reasoning(thinker: Running, fields: dict[str, Any]) -> None:
    options = {"include_usage": True}
    *_, last = ask(thinker, **fields, stream=True, stream_options=options)
    for usage in (ask(thinker, **fields).usage, last.usage):
        assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


def test_usage_of_an_answer_without_reasoning(caller: Running) -> None:
    assert ask(caller).usage.completion_tokens_details.reasoning_tokens == 0
    usage = caller.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).json()["usage"]
    assert "completion_tokens_details" not in usage


def test_a_budget_that_cannot_be_counted_is_left_out(thinker: Running, start_server: Start) -> None:
    """The end of thinking is no token of this vocabulary."""
    body = {"messages": HELLO, "thinking_token_budget": 5}
    answer = thinker.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.headers["x-weft-left-out"] == "thinking_token_budget"
    assert ask(thinker, extra_body={"thinking_token_budget": 0}).choices
    with serving(start_server, THOUGHT, chat=THINKS, http=HttpConfig(strict_requests=True)) as strict:
        refused = strict.http.post("/v1/chat/completions", json=body)
    assert refused.status_code == 400 and "</think>" in refused.json()["error"]["message"]


def test_reasoning_streams(thinker: Running) -> None:
    """Its first piece comes before the last one is made."""
    thinker.executor.permits = permits = threading.Semaphore(THOUGHT.index(" > 1"))
    deltas, thoughts = [], []
    for chunk in ask(thinker, tools=None, stream=True):
        deltas.append(chunk.choices[0].delta)
        if thought := getattr(deltas[-1], "reasoning_content", None):
            thoughts.append(thought)
            permits.release(1000)
    thinker.executor.permits = None
    assert all(getattr(delta, "reasoning", 0) == getattr(delta, "reasoning_content", 0) for delta in deltas)
    assert "".join(thoughts) == "Hm, 2 > 1" and len(thoughts) > 1
    assert "".join(delta.content or "" for delta in deltas) == f"Yes.\n{CALL}"


def test_an_answer_cut_off_inside_reasoning_has_no_content(thinker: Running) -> None:
    choice = ask(thinker, max_tokens=12).choices[0]
    assert choice.message.content is None and choice.finish_reason == "length"
    assert THOUGHT[8:12].strip() == choice.message.reasoning_content


def test_a_message_that_goes_on_inside_reasoning(thinker: Running) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "<think>Well"}]
    body = {"messages": begun, "continue_final_message": True, "add_generation_prompt": False, "max_tokens": 5}
    message = thinker.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["content"] is None and json.dumps(message["reasoning_content"])
