"""Structured output over HTTP: every way to ask for it, what reaches the engine, headers, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect, Request

from tests.frontend.server.conftest import Running, Start
from tests.support.fakes.fake_executor import ScriptedExecutor
from tests.support.tiny_chat import CONFIG
from weft.base.step.plan import GRAMMAR_FAILED, NewRequest, Sampled, ScheduledRequest, StepPlan, StepResult
from weft.compute.grammars.llguidance_compiler import LLGuidanceCompiler
from weft.compute.sampling.grammar_masks import as_bools
from weft.engine.text import Tokenizer
from weft.frontend.server.openai.structured import LEFT_OUT
from weft.frontend.server.text_jobs import result_of
from weft.frontend.text_worker.jobs import Tokenize

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TAG = {"triggers": ["<f="], "structures": [{"begin": "<f=a>", "schema": PERSON, "end": "</f>"}]}
TAGGED = 'so <f=a>{"name": "x", "age": 1}</f>.'
UNIQUE = {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "json_object"}}, '{"a": [1]}', "[1]"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": PERSON}}},
        '{"name": "x", "age": 1}',
        '{"name": "x"}',
    ),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "p"}}}, "{}", "1"),
    ({"response_format": {"type": "structural_tag", **TAG}}, TAGGED, "<f=b>"),
    ({"structured_outputs": {"json": PERSON}}, '{"name": "x", "age": 1}', "{}"),
    ({"structured_outputs": {"json": json.dumps(PERSON)}}, '{"name":"x","age":1}', "{}"),
    ({"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}}, '{"name":"x","age":1}', '{"name": "x'),
    ({"structured_outputs": {"json": PERSON, "whitespace_pattern": " {3}"}}, '{   "name":"x","age":1}', '{ "name'),
    ({"guided_json": PERSON, "guided_whitespace_pattern": r"\s{2}"}, '{ \n"name":"x","age":1}', '{\v "name'),
    (
        {"structured_outputs": {"json": {"properties": {"a": {}}}, "disable_additional_properties": True}},
        '{"a": 1}',
        '{"b": 1}',
    ),
    ({"structured_outputs": {"json_object": True}}, "{}", "x"),
    ({"structured_outputs": {"regex": r"\d{2}/[a-c]+"}}, "12/ab", "12/d"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "no", "maybe"),
    ({"structured_outputs": {"grammar": 'start: "a" "b"+'}}, "abb", "ba"),
    ({"structured_outputs": {"grammar": 'root ::= "a" [0-9]+'}}, "a12", "ab"),
    ({"structured_outputs": {"structural_tag": json.dumps(TAG)}}, TAGGED, "<f=c"),
    ({"guided_json": PERSON}, '{"name": "x", "age": 1}', "{}"),
    ({"guided_regex": "a|b"}, "b", "c"),
    ({"guided_regex": r"\d+"}, "12", "\u0663"),
    ({"guided_regex": r"\w+"}, "a_1", "\u00fc"),
    ({"guided_choice": ['x"y']}, 'x"y', "xy"),
    ({"guided_grammar": 'start: "z"'}, "z", "y"),
    ({"response_format": {"type": "json_object", "schema": PERSON}}, '{"name": "x", "age": 1}', '{"name": "x"}'),
    ({"json_schema": PERSON}, '{"name": "x", "age": 1}', "{}"),
    ({"grammar": 'root ::= "a"{5,5}'}, "aaaaa", "aaab"),
    ({"ebnf": 'root ::= "a" [0-9]+'}, "a12", "ab"),
    ({"regex": "a|b"}, "b", "c"),
]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "json_schema", "json_schema": {"strict": True, "schema": UNIQUE}}},
     "response_format.json_schema.schema", "'uniqueItems' at '/'"),
    ({"structured_outputs": {"json": {"properties": {"a/b": UNIQUE}}}}, "structured_outputs.json", "/properties/a~1b"),
    ({"guided_json": {"not": {}}}, "guided_json", "'not'"),
    ({"guided_json": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "guided_json", "'oneOf'"),
    ({"guided_json": {"$ref": "http://example.com/x"}}, "guided_json", "http://example.com/x"),
    ({"guided_json": {"type": "text"}}, "guided_json", "text"),
    ({"guided_json": {"enum": []}}, "guided_json", "one or more values"),
    ({"guided_json": {"description": "x" * 1_100_000}}, "guided_json", "1048576"),
    ({"guided_json": {"properties": {f"p{n}": {} for n in range(1001)}}}, "guided_json", "1000 properties"),
    ({"guided_json": {"enum": [*range(10_001)]}}, "guided_json", "10000 values"),
    ({"guided_regex": "("}, "guided_regex", "unclosed group"),
    ({"guided_regex": "(?=a)b"}, "guided_regex", "look-around"),
    ({"guided_choice": []}, "guided_choice", "one or more"),
    ({"guided_choice": [""]}, "guided_choice", "one or more"),
    ({"guided_grammar": "start: other"}, "guided_grammar", "other"),
    ({"guided_grammar": 'foo ::= "a"'}, "guided_grammar", "it is no GBNF"),
    ({"guided_regex": "a+", "guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "needs 'guided_json'"),
    ({"guided_grammar": "root ::= ("}, "guided_grammar", "GBNF"),
    ({"guided_grammar": "x" * 70_000}, "guided_grammar", "65536"),
    ({"structured_outputs": {}}, "structured_outputs", "nothing"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "regex and choice"),
    ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
     "structured_outputs.whitespace_pattern", "it goes with: json"),
    ({"structured_outputs": {"json": PERSON, "whitespace_pattern": "x+"}},
     "structured_outputs.whitespace_pattern", "white space"),
    ({"structured_outputs": {"json_object": True, "whitespace_pattern": "[ \u00a0]"}},
     "structured_outputs.whitespace_pattern", "white space"),
    ({"structured_outputs": {"json": PERSON, "whitespace_pattern": "["}},
     "structured_outputs.whitespace_pattern", "unclosed"),
    ({"guided_json": PERSON, "guided_whitespace_pattern": " |x"}, "guided_whitespace_pattern", "white space"),
    ({"structured_outputs": {"json_object": True, "disable_additional_properties": True}},
     "structured_outputs.disable_additional_properties", "it goes with: json, structural_tag"),
    ({"structured_outputs": {"yaml": "a"}}, "structured_outputs", "has nothing"),
    ({"structured_outputs": {"structural_tag": {"triggers": ["x"], "structures": [{"begin": "y", "end": ""}]}}},
     "structured_outputs.structural_tag", "none of the triggers"),
    ({"guided_json": PERSON, "guided_regex": "a"}, "guided_regex", "both"),
    ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice", "both"),
    ({"grammar": 'root ::= "a"', "regex": "a"}, "grammar", "both"),
    ({"response_format": {"type": "json_object", "schema": {"type": "text"}}}, "response_format.schema", "text"),
    ({"response_format": {"type": "text", "schema": PERSON}}, "response_format.schema", "json_schema.schema"),
    ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "guided_json"),
    ({"response_format": {"type": "json_object", "triggers": ["x"]}}, "response_format.type", "structural_tag"),
    ({"guided_choice": ["a"], "min_tokens": 3}, "min_tokens", "grammar"),
    ({"guided_choice": ["a"], "ignore_eos": True}, "ignore_eos", "grammar"),
    ({"guided_choice": ["a"], "allowed_token_ids": [65]}, "allowed_token_ids", "grammar"),
    ({"guided_choice": ["a"], "bad_words": ["b"]}, "bad_words", "grammar"),
]  # fmt: skip
ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/completions": {"prompt": "Hello"},
}


class Noting(ScriptedExecutor):
    """Keeps the requests that it was given; `fails`: their grammars fail."""

    fails = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requests: list[NewRequest] = []

    def step(self, plan: StepPlan) -> StepResult:
        for group in plan.groups:
            self.requests += group.new_requests
        return super().step(plan)

    def _answer(self, run: ScheduledRequest) -> Sampled:
        if self.fails and self.requests[-1].params.grammar is not None:
            return Sampled(run.slot, 0, error=GRAMMAR_FAILED)
        return super()._answer(run)


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Running]:
    running = start_server("abc", ranks=Noting)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> LLGuidanceCompiler:
    vocabulary = tokenizer.vocabulary(CONFIG["vocab_size"])
    assert vocabulary is not None
    return LLGuidanceCompiler(vocabulary)


def accepts(compiler: LLGuidanceCompiler, tokenizer: Tokenizer, grammar: str, text: str) -> bool:
    """Whether the grammar allows every token of `text`, and then an end."""
    automaton, vocab = compiler.compile(grammar), CONFIG["vocab_size"]
    mask = np.zeros(-(-vocab // 32), np.uint32)
    for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_ids[0]]:
        automaton.fill(mask)
        if not as_bools(mask, vocab)[token]:
            return False
        automaton.feed([token])
    return True


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(("asked", "good", "bad"), CASES, ids=lambda value: str(value)[:50])
def test_the_grammar_that_reaches_the_engine_is_what_was_asked_for(
    server: Running,
    compiler: LLGuidanceCompiler,
    tokenizer: Tokenizer,
    path: str,
    asked: dict[str, Any],
    good: str,
    bad: str,
) -> None:
    executor = server.executor
    assert isinstance(executor, Noting)
    executor.requests.clear()
    answer = server.http.post(path, json=ENDPOINTS[path] | asked)
    assert answer.status_code == 200, answer.text
    assert LEFT_OUT not in answer.headers
    grammar = executor.requests[-1].params.grammar
    assert grammar is not None and executor.requests[-1].params.structured_outputs is None
    assert accepts(compiler, tokenizer, grammar, good)
    assert not accepts(compiler, tokenizer, grammar, bad)


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(("asked", "param", "says"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_held_is_refused_with_its_place(
    server: Running, path: str, asked: dict[str, Any], param: str, says: str
) -> None:
    steps = server.executor.steps
    answer = server.http.post(path, json=ENDPOINTS[path] | asked)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and says in error["message"] and error["code"]
    assert server.executor.steps == steps


@pytest.mark.parametrize("stream", [False, True])
def test_keywords_that_are_left_out_are_named_in_a_header(server: Running, stream: bool) -> None:
    schema = {"type": "object", "properties": {"ü": UNIQUE}, "dependentRequired": {"a": ["b"]}}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    answer = server.http.post(
        "/v1/chat/completions", json=ENDPOINTS["/v1/chat/completions"] | asked | {"stream": stream}
    )
    assert answer.status_code == 200
    assert answer.headers[LEFT_OUT] == "uniqueItems at /properties/\\xfc; dependentRequired at /"


def test_any_text_is_no_constraint(server: Running) -> None:
    executor = server.executor
    assert isinstance(executor, Noting)
    executor.requests.clear()
    body = ENDPOINTS["/v1/completions"] | {"response_format": {"type": "text"}}
    assert server.http.post("/v1/completions", json=body).status_code == 200
    assert executor.requests[-1].params.grammar is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_fails_ends_its_own_request(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(Noting, "fails", True)
    body = ENDPOINTS["/v1/completions"] | {"guided_choice": ["a"], "stream": stream}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "grammar_failed"
    monkeypatch.setattr(Noting, "fails", False)
    assert server.http.post("/v1/completions", json=ENDPOINTS["/v1/completions"]).status_code == 200


def test_a_job_of_a_client_that_left_is_dropped() -> None:
    class Never:
        future: Future[Any] = Future()

        def submit(self, job: object, connection: object = None) -> Future[Any]:
            assert connection == ("client", 1)
            return self.future

        def close(self) -> None: ...

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    texts = Never()
    request = Request({"type": "http", "client": ("client", 1), "headers": []}, gone)
    with pytest.raises(ClientDisconnect):
        asyncio.run(result_of(texts, request, Tokenize(["x"])))
    assert texts.future.cancelled()
