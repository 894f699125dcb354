"""What people who come from vLLM expect to find beside the endpoints: cards, load, values that ask for nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Running, Start
from tests.support.waiting import until
from weft.cli.serve import template_from
from weft.errors import ConfigError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}

NOTHING: list[dict[str, Any]] = [
    {"length_penalty": 1.0},
    {"early_stopping": False},
    {"use_beam_search": False},
    {"documents": []},
    {"tool_choice": "none"},
    {"truncation_side": "left"},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"messages": [{"role": "assistant", "content": "a", "reasoning_content": None}, *CHAT["messages"]]},
]


@pytest.mark.parametrize("change", NOTHING, ids=str)
def test_values_that_ask_for_what_happens_anyway(alphabet: Running, change: dict[str, Any]) -> None:
    answer = alphabet.http.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"best_of": 3}, "best_of", "choosing the best of several answers"),
        ({"prompt_embeds": "x"}, "prompt_embeds", "prompts that are no tokens"),
        ({"length_penalty": 1.5}, "length_penalty", "beam search"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "fal",
        ),
    ],
)
def test_what_is_not_done_is_refused_in_its_own_words(
    alphabet: Running, change: dict[str, Any], param: str, words: str
) -> None:
    answer = alphabet.http.post("/v1/chat/completions", json=CHAT | change)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and words in error["message"]


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
    ("content", "reason"), [(None, "No such file"), (b"{% if %}", "the template itself is faulty"), (b"\xff", "utf-8")]
)
def test_a_template_that_is_none_is_refused_before_loading(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "t.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        template_from(argparse.Namespace(chat_template=file))
