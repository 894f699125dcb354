"""What users of vLLM expect to find beside the endpoints: cards, load, values that change nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.server.conftest import Running, Start
from tests.support.waiting import until
from weft.base.errors import ConfigError
from weft.base.step.plan import TokenLogprob
from weft.cli.commands.serve import template_from
from weft.engine.core.choice import ChoiceDelta
from weft.engine.text import Tokenizer
from weft.frontend.chat.answer import AnswerRules
from weft.frontend.chat.config import ChatForms
from weft.frontend.chat.tools import NO_TOOLS
from weft.frontend.server.openai.base import Shown
from weft.frontend.server.openai.formats import ChatFormat
from weft.frontend.server.openai.joined import likeliest

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}

NOTHING: list[dict[str, Any]] = [
    {"length_penalty": 1.0},
    {"early_stopping": False},
    {"use_beam_search": False},
    {"documents": []},
    {"tool_choice": "none"},
    {"tool_choice": "auto", "tools": []},
    {"parallel_tool_calls": True},
    {"reasoning_effort": "none", "enable_thinking": False, "thinking_token_budget": 5, "include_reasoning": False},
    {"chat_template_kwargs": {"enable_thinking": True}},
    {"truncation_side": "left"},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": True}},
    {"stream": True, "stream_options": {"include_usage": None}},
    {"verbosity": "low", "moderation": None, "client_metadata": {"a": 1}, "thread": {}, "cache_prompt": True},
    {"reasoning": {"effort": "low", "exclude": True, "summary": "auto"}, "thinking": {"type": "disabled"}},
    {"messages": [{"role": "assistant", "content": "a", "reasoning_content": None}, *CHAT["messages"]]},
]


@pytest.mark.parametrize("change", NOTHING, ids=str)
def test_values_that_ask_for_what_happens_anyway(alphabet: Running, change: dict[str, Any]) -> None:
    answer = alphabet.http.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"best_of": 3}, "best_of", "for chats"),
        ({"prompt_embeds": "x"}, "prompt_embeds", "prompts other than text and token ids"),
        ({"length_penalty": 1.5}, "length_penalty", "beam search"),
        ({"top_a": 0.5}, "top_a", "sampler"),
    ],
)
def test_what_is_not_done_is_refused_in_its_own_words(
    alphabet: Running, change: dict[str, Any], param: str, words: str
) -> None:
    answer = alphabet.http.post("/v1/chat/completions", json=CHAT | change)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and words in error["message"]


def test_the_likeliest_answers_come_back(alphabet: Running) -> None:
    body = {"prompt": ["Hello", "abc"], "n": 2, "best_of": 3, "max_tokens": 4}
    answer = alphabet.http.post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 2 * 3 * 4 and all(not one["logprobs"] for one in answer["choices"])
    echoed = alphabet.http.post("/v1/completions", json=body | {"echo": True, "n": 1}).json()
    assert [choice["text"][:3] for choice in echoed["choices"]] == ["Hel", "abc"]
    same = alphabet.http.post("/v1/completions", json={"prompt": "x", "n": 2, "best_of": 2, "stream": True})
    assert same.text.endswith("[DONE]\n\n")


def test_which_are_the_likeliest() -> None:
    def piece(text: str, *logprobs: float) -> ChoiceDelta:
        return ChoiceDelta(text, logprobs=[TokenLogprob(0, value, 1, []) for value in logprobs])

    made = [
        piece("a", -1.0, -1.0),
        piece("b", -1.5),
        piece("c", -0.2, -0.4),
        piece("d", -9.0),
        piece("e"),
        piece("f", -1),
    ]
    assert [one.text for one in likeliest(made, 3, 2)] == ["c", "a", "e", "f"]
    assert [one.text for one in likeliest(made, 3, 1)] == ["c", "e"]
    assert [one.text for one in likeliest(made, 3, 3)] == list("abcdef")


def test_salted_prefixes_are_kept_apart(start_server: Start) -> None:
    server = start_server("abc")
    try:

        def cached(salt: str | None) -> int:
            body = {"prompt": "x" * 60, "max_tokens": 1, "cache_salt": salt}
            usage = server.http.post("/v1/completions", json=body).json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert [cached(salt) for salt in (None, None, "one", "one", "two", None)] == [0, 48, 0, 48, 0, 48]
    finally:
        server.stop()


def test_a_card_says_where_the_tokenizer_is(alphabet: Running) -> None:
    (card,) = alphabet.http.get("/v1/models").json()["data"]
    assert card["id"] == card["root"] == "tiny" and card["parent"] is None
    assert alphabet.http.get("/v1/models/tiny").json() == card


def test_alive_as_hosting_services_ask(alphabet: Running) -> None:
    assert [alphabet.http.request(method, "/ping").status_code for method in ("GET", "POST")] == [200, 200]


def test_the_load_is_the_open_requests(start_server: Start) -> None:
    server = start_server("abc")
    try:
        assert server.http.get("/load").json() == {"server_load": 0}
        server.executor.gate.clear()
        body = {"prompt": ["x", "y"], "n": 2, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body):
            until(lambda: server.http.get("/load").json() == {"server_load": 1})
            server.executor.gate.set()
        until(lambda: server.http.get("/load").json() == {"server_load": 0})
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"{% if %}", "the template itself is faulty"), (b"\xff", "not UTF-8 text")],
)
def test_a_template_that_is_none_is_refused_before_loading(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "t.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        template_from(argparse.Namespace(chat_template=file))


def test_log_probabilities_up_to_the_server_s_limit(start_server: Start) -> None:
    """The scripted ranks report two alternatives of each token, and one of a prompt's."""
    server = start_server("abc", max_logprobs=1)
    try:
        chat = CHAT | {"logprobs": True, "top_logprobs": -1, "prompt_logprobs": -1}
        answer = server.http.post("/v1/chat/completions", json=chat).json()
        assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 1
        assert len(answer["prompt_logprobs"][1]) == 2
        completion = {"prompt": "x", "max_tokens": 2, "logprobs": -1, "echo": True}
        answer = server.http.post("/v1/completions", json=completion).json()
        assert [len(top) for top in answer["choices"][0]["logprobs"]["top_logprobs"][1:]] == [1, 1]
        for path, body, field in (
            ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
            ("/v1/chat/completions", CHAT | {"prompt_logprobs": 2}, "prompt_logprobs"),
            ("/v1/completions", {"prompt": "x", "logprobs": 2}, "logprobs"),
        ):
            error = server.http.post(path, json=body).json()["error"]
            assert error["param"] == field and "-1 (as many as max_logprobs allows) to 1" in error["message"]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("top", "shown"),
    [
        ([(1, -1.0), (2, -3.0)], [(1, -1.0), (7, -2.0), (2, -3.0)]),
        ([(1, -3.0)], [(7, -2.0), (1, -3.0)]),
        ([(7, -2.0), (2, -3.0)], [(7, -2.0), (2, -3.0)]),
    ],
)
def test_named_tokens_come_with_the_sampled_one(
    tokenizer: Tokenizer, top: list[tuple[int, float]], shown: list[tuple[int, float]]
) -> None:
    words = Shown(logprobs=len(top), named=True, tokens_as_ids=True)
    rules = AnswerRules(forms=ChatForms(), use=NO_TOOLS)
    piece = ChoiceDelta("x", logprobs=[TokenLogprob(7, -2.0, 3, top)])
    found = ChatFormat(tokenizer, words, [], rules).choice(0, piece).logprobs
    assert found is not None
    assert [(one.token, one.logprob) for one in found.content[0].top_logprobs] == [
        (f"token_id:{token}", value) for token, value in shown
    ]
