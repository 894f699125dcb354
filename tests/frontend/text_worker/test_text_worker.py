"""The text worker: same results as in this process, bounds that end a job and nothing else, turns, jobs dropped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from weft.base.errors import RequestError
from weft.compute.grammars.constraints import Constraint
from weft.frontend.text_worker.client import LocalTexts, TextWorker
from weft.frontend.text_worker.handler import Handler
from weft.frontend.text_worker.jobs import Begin, CheckGrammar, CheckSchemas, Render, Tokenize, pack
from weft.frontend.text_worker.process import _answer

MESSAGES = [{"role": "user", "content": "Héllo"}]
LIMIT_S = 120
FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def worker(begin: Begin) -> Iterator[TextWorker]:
    made = TextWorker(begin)
    yield made
    made.close()


@pytest.fixture(scope="module")
def local(begin: Begin) -> LocalTexts:
    return LocalTexts(Handler.begin(begin))


def outcome(future: Future[Any]) -> Any:
    """The result, or what the refusal says."""
    try:
        return future.result(LIMIT_S)
    except RequestError as error:
        return str(error), error.param, error.status, error.code


@pytest.mark.parametrize(
    "job",
    [
        Tokenize(["Hello <|im_end|>", "", "ü" * 5000]),
        Tokenize(["Hello"], add_special_tokens=False),
        Tokenize(["a " * 20000], longest=100, param="messages"),
        Render(MESSAGES, {"add_generation_prompt": True}),
        Render(MESSAGES, template="{{ messages[0].content }}!"),
        Render(MESSAGES, template="{{ raise_exception('no') }}"),
        Render(MESSAGES, template="{% if %}"),
        Render(MESSAGES, template="{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    ],
    ids=lambda job: type(job).__name__,
)
def test_jobs_give_what_they_give_in_this_process(worker: TextWorker, local: LocalTexts, job: Any) -> None:
    found, wanted = outcome(worker.submit(job)), outcome(local.submit(job))
    assert found == wanted or ("recursion" in str(wanted).lower() and found[2] == 400)


def nested(depth: int, kind: str) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"items": value} if kind == "object" else [value]
    return value


@pytest.mark.parametrize("kind", ["object", "list"])
@pytest.mark.parametrize("depth", [30, 150, 198, 400, 900, 5000])
def test_deep_values_end_no_process(worker: TextWorker, local: LocalTexts, depth: int, kind: str) -> None:
    """Whatever the job, and however its depth came through: the same refusal as in this process."""
    value = nested(depth, kind)
    text = "[" * depth + "]" * depth
    constraints = [
        Constraint(kind="json", value=value), Constraint(kind="json", value=text, strict=False),
        Constraint(kind="json", value={"const": value}, closed=True), Constraint(kind="structural_tag", value=value),
        Constraint(kind="json", value={"type": "string", "description": value}), Constraint(kind="choice", value=value),
        Constraint(kind="grammar", value="start: " + text.replace("[", "(").replace("]", ")")),
    ]  # fmt: skip
    jobs: list[Any] = [
        *map(CheckGrammar, constraints), CheckSchemas(constraints[:1]), Render(MESSAGES, {"tools": value}),
        Render([{"role": "user", "content": value}]),
    ]  # fmt: skip
    worker.submit(jobs[-2]).exception(LIMIT_S)
    before = worker.pid
    for job in jobs:
        found, wanted = outcome(worker.submit(job)), outcome(local.submit(job))
        assert isinstance(found, tuple) == isinstance(wanted, tuple) or depth > 120, job
        assert not isinstance(found, tuple) or found[2] == 400
    assert worker.pid == before


@pytest.mark.parametrize("frame", [b"\x91" * 100_000, b"", b"\xc1", pack(Render(MESSAGES))[:-1]])
def test_a_frame_that_cannot_be_unpacked_is_a_refusal(begin: Begin, frame: bytes) -> None:
    refusal = _answer(Handler.begin(begin), frame).refusal
    assert refusal is not None and refusal.status == 400


def test_a_job_beyond_its_time_is_refused_and_the_next_one_runs(worker: TextWorker, monkeypatch: Any) -> None:
    monkeypatch.setattr(Render, "cpu_s", 2.0)
    before = worker.pid
    with pytest.raises(RequestError, match="more than 2 s to render") as caught:
        worker.submit(Render(MESSAGES, template=FOREVER)).result(LIMIT_S)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "too_slow", "messages")
    assert worker.submit(Tokenize(["ab"], add_special_tokens=False)).result(LIMIT_S) == [[64, 65]]
    assert worker.pid != before


def test_a_job_beyond_its_memory_is_refused_and_the_next_one_runs(worker: TextWorker) -> None:
    with pytest.raises(RequestError) as caught:
        worker.submit(Render(MESSAGES, template="{{ 'a' * 3000000000 }}")).result(LIMIT_S)
    assert caught.value.status == 400
    assert worker.submit(Render(MESSAGES, template="x")).result(LIMIT_S) == "x"


def test_a_process_that_was_killed_from_outside_costs_no_job(worker: TextWorker) -> None:
    until(lambda: worker.pid is not None)
    assert worker.submit(Render(MESSAGES, template="x")).result(LIMIT_S) == "x"
    starts = worker.starts
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.submit(Render(MESSAGES, template="y")).result(LIMIT_S) == "y"
    assert worker.starts == starts + 1


def test_connections_take_turns_and_jobs_of_those_that_left_are_dropped(worker: TextWorker) -> None:
    order: list[str] = []

    def noted(name: str, future: Future[Any]) -> None:
        if not future.cancelled():
            order.append(name)

    assert worker.submit(Render(MESSAGES, template="x")).result(LIMIT_S) == "x" and worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)  # until all are queued
    busy = worker.submit(Render(MESSAGES, template="busy"))
    until(busy.running)
    jobs = {name: worker.submit(Render(MESSAGES, template=name), name[0]) for name in ("a1", "a2", "a3", "b1", "c1")}
    for name, future in jobs.items():
        future.add_done_callback(partial(noted, name))
    assert jobs["a2"].cancel()
    os.kill(worker.pid, signal.SIGCONT)
    for name, future in jobs.items():
        assert future.cancelled() if name == "a2" else future.result(LIMIT_S) == name
    until(lambda: len(order) == 4, "a result comes before what is called with it")
    assert order == ["a1", "b1", "c1", "a3"]


def test_jobs_after_the_end_are_refused(begin: Begin) -> None:
    worker = TextWorker(begin)
    late = worker.submit(Render(MESSAGES, template="x"))
    worker.close()
    worker.close()
    assert late.done()
    assert worker.pid is None
    with pytest.raises(RequestError) as caught:
        worker.submit(Tokenize(["a"])).result(LIMIT_S)
    assert caught.value.status == 503


def test_a_worker_that_cannot_start_refuses_jobs(begin: Begin, tmp_path: Path) -> None:
    broken = Begin(begin.checkpoint.__class__("x", "safetensors", {}, {}), 264)
    for made in (TextWorker(broken), TextWorker(begin, program=(sys.executable, "-c", "pass"))):
        with pytest.raises(RequestError, match="cannot be started") as caught:
            made.submit(Tokenize(["a"])).result(LIMIT_S)
        assert caught.value.status == 503
        made.close()


def test_it_imports_no_torch(worker: TextWorker) -> None:
    worker.submit(Render(MESSAGES, template="x")).result(LIMIT_S)
    maps = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "tokenizers" in maps and "libtorch" not in maps


@pytest.mark.parametrize("value", [2**70, "\ud800", object()], ids=["number", "half a character", "no JSON"])
def test_a_job_that_cannot_be_sent_is_refused(worker: TextWorker, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        worker.submit(Render([{"role": "user", "content": value}], template="x")).result(LIMIT_S)
    assert (caught.value.status, caught.value.param) == (400, "messages")
    constraint = Constraint(kind="json", value={"const": value}, param="guided_json")
    for job in (CheckGrammar(constraint), CheckSchemas([constraint])):
        with pytest.raises(RequestError) as caught:
            worker.submit(job).result(LIMIT_S)
        assert (caught.value.status, caught.value.param) == (400, "guided_json")
    assert worker.submit(Render(MESSAGES, template="x")).result(LIMIT_S) == "x"
