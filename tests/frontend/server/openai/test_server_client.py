"""The unmodified openai client against the server: answers, streams, usage, ends."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest

from tests.frontend.server.conftest import Running, Start

HELLO: Any = [{"role": "user", "content": "Hello"}]
TEXT = "abcdefghijklmnopqrstuvwxyz"
PROMPT_TOKENS = 3 + len("user\nHello") + len("\n") + len("assistant\n")
"""Three special tokens, and a token for every byte."""


def test_chat(alphabet: Running) -> None:
    answer = alphabet.client().chat.completions.create(model="tiny", messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == PROMPT_TOKENS
    assert answer.usage.completion_tokens == len(TEXT) + 1
    assert answer.usage.total_tokens == PROMPT_TOKENS + len(TEXT) + 1
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "tiny"


def test_chat_streams_token_by_token(start_server: Start) -> None:
    """No step runs before the client has the token of the step before."""
    server = start_server(TEXT)
    server.executor.permits = permits = threading.Semaphore(1)
    chunks = []
    try:
        with server.client().chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        ) as stream:
            for chunk in stream:
                chunks.append(chunk)
                if chunk.choices and chunk.choices[0].delta.content:
                    permits.release()
    finally:
        permits.release(1000)
        server.stop()
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[1:-1]]
    assert "".join(texts) == TEXT
    assert [text for text in texts if text] == list(TEXT)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(TEXT) + 1
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_completion_defaults_to_sixteen_tokens(alphabet: Running) -> None:
    answer = alphabet.client().completions.create(model="tiny", prompt="x")
    assert answer.choices[0].text == TEXT[:16]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 16


def test_completion_streams(alphabet: Running) -> None:
    with alphabet.client().completions.create(model="tiny", prompt="x", max_tokens=30, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize(
    ("prompt", "count", "tokens"),
    [("ab", 1, 2), (["ab", "cde"], 2, 5), ([1, 2, 3], 1, 3), ([[1], [2, 3]], 2, 3)],
)
def test_prompts_of_every_kind(alphabet: Running, prompt: Any, count: int, tokens: int) -> None:
    answer = alphabet.client().completions.create(model="tiny", prompt=prompt, max_tokens=3)
    assert [choice.text for choice in answer.choices] == ["abc"] * count
    assert [choice.index for choice in answer.choices] == list(range(count))
    assert answer.usage is not None and answer.usage.prompt_tokens == tokens
    assert answer.usage.completion_tokens == 3 * count


def test_n_outputs_of_each_prompt(alphabet: Running) -> None:
    answer = alphabet.client().completions.create(model="tiny", prompt=["ab", "c"], n=3, max_tokens=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(index, "ab") for index in range(6)]
    assert answer.usage is not None and answer.usage.prompt_tokens == 3 and answer.usage.completion_tokens == 12


def test_n_outputs_stream_side_by_side(alphabet: Running) -> None:
    with alphabet.client().chat.completions.create(model="tiny", messages=HELLO, n=3, stream=True) as stream:
        texts, ends = ["", "", ""], []
        for chunk in stream:
            choice = chunk.choices[0]
            texts[choice.index] += choice.delta.content or ""
            ends += [(choice.index, choice.finish_reason)] if choice.finish_reason else []
    assert texts == [TEXT] * 3
    assert sorted(ends) == [(0, "stop"), (1, "stop"), (2, "stop")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"stop": "fg"}, "abcde"),
        ({"stop": ["xyz", "hij"]}, "abcdefg"),
        ({"stop": ["a"]}, ""),
        ({"stop": "zzz"}, TEXT),
        ({"stop": "fg", "extra_body": {"include_stop_str_in_output": True}}, "abcdefg"),
        ({"stop": "b", "extra_body": {"min_tokens": 5}}, TEXT),
    ],
)
def test_stop_strings(alphabet: Running, stream: bool, extra: dict[str, Any], text: str) -> None:
    create = alphabet.client().completions.create
    if stream:
        with create(model="tiny", prompt="x", max_tokens=40, stream=True, **extra) as chunks:
            choices = [chunk.choices[0] for chunk in chunks]
        assert "".join(choice.text for choice in choices) == text
        assert choices[-1].finish_reason == "stop"
    else:
        answer = create(model="tiny", prompt="x", max_tokens=40, **extra)
        assert answer.choices[0].text == text
        assert answer.choices[0].finish_reason == "stop"


def test_a_stop_string_ends_the_work(start_server: Start) -> None:
    server = start_server("abcdefghijklmnopqrstuvwxyz" * 5, step_s=0.05)
    try:
        answer = server.client().completions.create(model="tiny", prompt="x", max_tokens=130, stop="cd")
        assert answer.choices[0].text == "ab"
        assert answer.usage is not None and answer.usage.completion_tokens == 4
        assert server.client().completions.create(model="tiny", prompt="x", max_tokens=2).choices[0].text == "ab"
        assert server.executor.steps < 100
    finally:
        server.stop()


def test_stop_token_ids_are_not_text(alphabet: Running) -> None:
    ids = {"stop_token_ids": [alphabet.executor.script[3]]}
    answer = alphabet.client().completions.create(model="tiny", prompt="x", max_tokens=9, extra_body=ids)
    assert answer.choices[0].text == "abc"
    assert answer.choices[0].finish_reason == "stop"


def test_ignore_eos(alphabet: Running) -> None:
    answer = alphabet.client().completions.create(
        model="tiny", prompt="x", max_tokens=30, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].text == TEXT + "abc"
    assert answer.choices[0].finish_reason == "length"


def test_chat_may_use_the_rest_of_the_context(alphabet: Running) -> None:
    answer = alphabet.client().chat.completions.create(model="tiny", messages=HELLO, extra_body={"ignore_eos": True})
    assert answer.usage is not None and answer.usage.total_tokens == 200
    assert answer.choices[0].finish_reason == "length"


def test_characters_are_never_cut(start_server: Start) -> None:
    text = "Grüße, 日本 🙂!"
    server = start_server(text)
    try:
        with server.client().chat.completions.create(model="tiny", messages=HELLO, stream=True) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    finally:
        server.stop()
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_logprobs_of_a_chat(alphabet: Running) -> None:
    answer = alphabet.client().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=2, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [(entry.token, entry.logprob, entry.bytes) for entry in logprobs.content] == [
        ("a", -0.5, [97]),
        ("b", -0.5, [98]),
    ]
    assert [(top.token, top.logprob) for top in logprobs.content[0].top_logprobs] == [("a", -0.5), ("b", -1.5)]


def test_logprobs_of_a_completion(alphabet: Running) -> None:
    answer = alphabet.client().completions.create(model="tiny", prompt="x", max_tokens=3, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b", "c"] and logprobs.token_logprobs == [-0.5] * 3
    assert logprobs.text_offset == [0, 1, 2] and logprobs.top_logprobs == [{"a": -0.5}, {"b": -0.5}, {"c": -0.5}]
    assert alphabet.client().completions.create(model="tiny", prompt="x").choices[0].logprobs is None


def test_content_parts_and_the_developer_role(alphabet: Running) -> None:
    parts: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "Hello", "name": "Ann"},
    ]
    answer = alphabet.client().chat.completions.create(model="tiny", messages=parts)
    assert answer.choices[0].message.content == TEXT


def test_harmless_fields_are_accepted(alphabet: Running) -> None:
    answer = alphabet.client().chat.completions.create(
        model="tiny",
        messages=HELLO,
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        response_format={"type": "text"},
        modalities=["text"],
        max_completion_tokens=3,
    )
    assert answer.choices[0].message.content == "abc"


def test_models(alphabet: Running) -> None:
    models = list(alphabet.client().models.list())
    assert [model.id for model in models] == ["tiny"]
    assert alphabet.client().models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        alphabet.client().models.retrieve("other")
