"""Chat templates are tried at start within the text worker's bounds."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import make_checkpoint, make_tokenizer, small_config
from weft.base.errors import CheckpointError, ConfigError, RequestError
from weft.engine.text import Tokenizer
from weft.engine.text.chat_template import TemplateForm
from weft.frontend.chat.template_probe import probe
from weft.frontend.text_worker.client import TextWorker
from weft.frontend.text_worker.conversations import Conversations
from weft.frontend.text_worker.jobs import Begin, Render, TriedTemplates
from weft.frontend.text_worker.templates import take_tried, try_templates
from weft.model.checkpoint import open_checkpoint

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a * b %}{% endfor %}{% endfor %}"
HUGE = "{% set x = 'a' * 4000000000 %}"
PARTS = "{% for p in messages[0].content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
Tried = Callable[..., tuple[Tokenizer, TextWorker]]


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Tried]:
    """Tries a template of a model in a worker that is ended afterwards."""
    workers: list[TextWorker] = []
    said: list[str] = []

    def run(template: str, *, given: bool = False) -> tuple[Tokenizer, TextWorker]:
        make_tokenizer(make_checkpoint(tmp_path, small_config(num_hidden_layers=1)))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        checkpoint = open_checkpoint(tmp_path)
        workers.append(TextWorker(Begin.of(checkpoint, 307)))
        found = try_templates(workers[-1], "model m", given=given)
        tokenizer = Tokenizer.from_checkpoint(checkpoint)
        take_tried(tokenizer, found, said.append)
        return tokenizer, workers[-1]

    yield run
    for worker in workers:
        worker.close()


def test_the_server_and_its_worker_render_alike(tried: Tried) -> None:
    tokenizer, worker = tried(PARTS)
    assert tokenizer.chat_templates.forms == {"default": TemplateForm(parts=True)}
    messages = [{"role": "user", "content": "the loom"}]
    assert worker.submit(Render(messages)).result() == tokenizer.apply_chat_template(messages) == "the loom"


def test_a_template_without_end_or_bounds_is_refused(tried: Tried) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="model m: the chat template takes more than 2 s; give another"):
        tried(ENDLESS + PARTS)
    with pytest.raises(CheckpointError, match="model m: the chat template takes more than 2 s; give another"):
        tried("{% if tools %}" + ENDLESS + "{% endif %}" + PARTS)  # only where the forms of tool calls are looked for
    with pytest.raises(CheckpointError, match="model m: .*MemoryError"):
        tried(HUGE + PARTS)
    with pytest.raises(ConfigError, match="faulty"):
        tried("{% if %}", given=True)
    assert time.monotonic() - began < 200


def test_what_a_template_does_with_tools_is_found_in_the_worker(tmp_path: Path) -> None:
    calls = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}<tool_call>\n{{ c.function | tojson }}\n"
    template = "{{ tools }}" + calls + "</tool_call>{% endfor %}{% endfor %}"
    tokenizer = write(tmp_path, {"default": template, "rag": "{{ documents[0].text }}"})
    found = try_alone(tmp_path)
    assert found.knows == probe(tokenizer.chat_templates, tokenizer.added_tokens)
    assert found.knows is not None and found.knows.tools and found.knows.calls == "object"
    said: list[str] = []
    take_tried(tokenizer, found, said.append)
    assert said == ["chat template 'rag' is left out: chat template: None has no element 0"]
    assert tokenizer.chat_templates.sources == {"default": template}


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        ("SIGPROF", "takes more time than loading it may"),
        ("SIGABRT", "takes more memory than loading it may, or ends"),
        ("SIGSEGV", r"ends the process that loads it \(signal 11\)"),
    ],
)
def test_a_tokenizer_that_ends_its_process_ends_the_start(tmp_path: Path, signal: str, words: str) -> None:
    write(tmp_path, {"default": PARTS})
    program = (sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), signal.{signal})")
    with contextlib.closing(TextWorker(Begin.of(open_checkpoint(tmp_path), 307), program=program)) as worker:
        with pytest.raises(CheckpointError, match=f"checkpoint {tmp_path}: its tokenizer {words}"):
            try_templates(worker, "model m")
        assert worker.starts == 1  # another try would end alike


def test_a_tokenizer_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    write(tmp_path, {"default": PARTS})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"^checkpoint {tmp_path}: {tmp_path}/tokenizer.json: "):
        try_alone(tmp_path, templates=False)


def test_conversations_of_the_python_api_have_the_same_bounds(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"default": "{{ messages[-1].content }}{% if messages[0].role == 'system' %}" + ENDLESS + "{% endif %}"},
    )
    begin = Begin.of(open_checkpoint(tmp_path), 307)
    with contextlib.closing(Conversations(begin)) as conversations:
        said = [{"role": "user", "content": "hello"}]
        assert conversations.prompt(said, add_generation_prompt=True) == "hello"
        with pytest.raises(RequestError, match="more than 2 s to render"):
            conversations.prompt([{"role": "system", "content": "x"}, *said], add_generation_prompt=True)
        assert conversations.prompt(said, add_generation_prompt=True) == "hello"
    with contextlib.closing(TextWorker(begin)) as worker:
        with contextlib.closing(Conversations(begin, worker)) as conversations:
            assert conversations.prompt(said, add_generation_prompt=True) == "hello"
        assert worker.submit(Render([*said])).result() == "hello"  # it is its owner's to close


def try_alone(path: Path, *, templates: bool = True) -> TriedTemplates:
    with contextlib.closing(TextWorker(Begin.of(open_checkpoint(path), 307))) as worker:
        return try_templates(worker, "model m", templates=templates)


def write(path: Path, templates: dict[str, str]) -> Tokenizer:
    make_tokenizer(make_checkpoint(path, small_config(num_hidden_layers=1)))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    return Tokenizer.from_checkpoint(open_checkpoint(path))
