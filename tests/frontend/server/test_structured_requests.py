"""Structured output over real ranks: documents of schemas in every layout, requests that are half right, streams beside
them. The server has its text worker."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.compute.grammars.schemas import check_document
from tests.support.tiny_chat import write_tiny_chat
from weft.cli.hosted import PROGRAM
from weft.tools.bench.served import Served

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog", None]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["kind", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": SCHEMA}}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 120}
LAYOUTS = {"tp 2": ["--tp", "2"], "dp 2": ["--attn-dp-size", "2"], "replicas 2": ["--replicas", "2"]}


@pytest.fixture(scope="module", params=LAYOUTS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    model = write_tiny_chat(tmp_path_factory.mktemp("structured") / "tiny")
    words = ["serve", str(model), "--port", "0", "--max-num-seqs", "6", *LAYOUTS[request.param]]
    with Served(PROGRAM, words) as server, httpx.Client(base_url=server.wait_ready(120), timeout=120) as client:
        yield client
        assert server.alive


def test_answers_are_documents_whatever_stands_beside_them(served: httpx.Client) -> None:
    """Drawn, greedy, several at once, streamed, with log-probabilities; neighbours without a schema."""
    free = CHAT | {"temperature": 0.0, "max_tokens": 30}
    alone = served.post("/v1/chat/completions", json=free).json()["choices"][0]["message"]["content"]
    asked: list[dict[str, Any]] = [
        {"temperature": 0.0}, {"seed": 1}, {"seed": 2, "n": 3}, {"seed": 3, "logprobs": True, "top_logprobs": 2},
        {"seed": 4, "repetition_penalty": 1.2}, {"seed": 5, "top_p": 0.9, "top_k": 20},
    ]  # fmt: skip
    answers: list[dict[str, Any]] = [{}] * len(asked)
    neighbours: list[str] = [""] * 3

    def ask(index: int) -> None:
        body = CHAT | {"response_format": FORMAT} | asked[index]
        answers[index] = served.post("/v1/chat/completions", json=body).json()

    def ask_freely(index: int) -> None:
        answer = served.post("/v1/chat/completions", json=free).json()
        neighbours[index] = answer["choices"][0]["message"]["content"]

    calls = [threading.Thread(target=ask, args=(index,)) for index in range(len(asked))]
    calls += [threading.Thread(target=ask_freely, args=(index,)) for index in range(len(neighbours))]
    for thread in calls:
        thread.start()
    for thread in calls:
        thread.join()
    choices = [choice for answer in answers for choice in answer["choices"]]
    assert len(choices) == 8
    ended = [choice for choice in choices if choice["finish_reason"] == "stop"]
    assert len(ended) >= 4
    for choice in ended:
        check_document(choice["message"]["content"], SCHEMA)
    assert neighbours == [alone] * 3


def test_a_stream_is_the_same_document(served: httpx.Client) -> None:
    body = CHAT | {"response_format": FORMAT, "seed": 9}
    whole = served.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    pieces = []
    with served.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                pieces += [each["delta"].get("content") or "" for each in json.loads(line[6:])["choices"]]
    assert "".join(pieces) == whole


WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, "", "x", "(", "(a+)+$", "\\d{1,40}", "é\u2028", [], {}, [1, "a"],
    {"type": "object"}, {"type": "integer"}, "start: /a*/", "root ::= root", "object", ["string", "null"], 10**18,
    {"$ref": "#"}, {"$ref": "#/x"}, "^(?=a)", "<|im_end|>", 'start: "a" start?', "\x00", "[\\s\\S]*",
)  # fmt: skip
KEYS = (
    "type", "properties", "items", "required", "enum", "const", "anyOf", "oneOf", "allOf", "minLength", "maxLength",
    "pattern", "format", "minimum", "multipleOf", "additionalProperties", "patternProperties", "prefixItems", "$ref",
    "$defs", "not", "if", "uniqueItems", "minItems", "maxItems", "minProperties", "x-guidance",
)  # fmt: skip
FIELDS = (
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "guided_whitespace_pattern", "min_tokens", "ignore_eos", "logit_bias", "stop", "n", "temperature", "seed",
)  # fmt: skip


def half_right(draw: random.Random) -> dict[str, Any]:
    """A request in whose fields for structured output something is right and something is not."""

    def schema(depth: int) -> Any:
        if depth == 0 or draw.random() < 0.2:
            return draw.choice(WORDS)
        found: dict[str, Any] = {}
        for key in draw.sample(KEYS, draw.randint(1, 4)):
            value = schema(depth - 1)
            many = key in ("anyOf", "oneOf", "allOf", "prefixItems", "enum", "required")
            named = key in ("properties", "patternProperties", "$defs")
            right = [value, draw.choice(WORDS)] if many else {"a": value} if named else value
            found[key] = right if draw.random() < 0.9 else draw.choice(WORDS)
        return found

    def value(field: str) -> Any:
        if field == "response_format":
            kind = draw.choice(["json_schema", "json_object", "structural_tag", "text", "x"])
            tag = {"triggers": ["<"], "structures": [{"begin": "<a", "schema": schema(2), "end": draw.choice(WORDS)}]}
            named = {"name": "x", "schema": schema(3), "strict": draw.random() < 0.5}
            return {"type": kind, **({"json_schema": named} if draw.random() < 0.7 else tag)}
        if field == "structured_outputs":
            kind = draw.choice(["json", "regex", "choice", "grammar", "json_object", "structural_tag"])
            return {kind: schema(2) if kind == "json" else draw.choice(WORDS)}
        return schema(3) if field == "guided_json" else draw.choice(WORDS)

    fields = draw.sample(FIELDS[:6], 1) + draw.sample(FIELDS, draw.randint(0, 1))
    return CHAT | {"max_tokens": 3} | {field: value(field) for field in fields}


def hold(served: httpx.Client, count: int, seed: int) -> Counter[int]:
    """Statuses of so many requests and of one that is right, while a stream runs beside them that must not change."""
    free = CHAT | {"temperature": 0.0, "max_tokens": 100}
    wanted = served.post("/v1/chat/completions", json=free).json()["choices"][0]["message"]["content"]
    ended, found = threading.Event(), []

    def beside() -> None:
        while not ended.is_set():
            answer = served.post("/v1/chat/completions", json=free).json()
            found.append(answer["choices"][0]["message"]["content"])

    stream = threading.Thread(target=beside)
    stream.start()
    statuses = Counter[int]()
    draw = random.Random(seed)
    for body in [CHAT | {"response_format": FORMAT}, *(half_right(draw) for _ in range(count))]:
        answer = served.post("/v1/chat/completions", json=body)
        statuses[answer.status_code] += 1
        assert answer.status_code in (200, 400), (answer.status_code, answer.text, body)
        if answer.status_code == 400:
            assert answer.json()["error"]["message"], body
    ended.set()
    stream.join()
    assert found and {*found} == {wanted}
    return statuses


def test_requests_that_are_half_right(served: httpx.Client) -> None:
    statuses = hold(served, 60, random.randrange(2**31))
    assert {*statuses} == {200, 400}


@pytest.mark.long
def test_two_thousand_requests_that_are_half_right(served: httpx.Client) -> None:
    assert {*hold(served, 2000, random.randrange(2**31))} == {200, 400}


@pytest.mark.long
def test_two_thousand_requests_that_are_half_right_to_the_embedded_model() -> None:
    with Served(PROGRAM, ["serve", "--port", "0"]) as server:
        with httpx.Client(base_url=server.wait_ready(120), timeout=120) as client:
            assert {*hold(client, 2000, random.randrange(2**31))} == {200, 400}
        assert server.alive
