"""Chat templates are tried at start within the text worker's bounds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import make_checkpoint, make_tokenizer, small_config
from weft.checkpoint import open_checkpoint
from weft.errors import CheckpointError, ConfigError
from weft.text import Tokenizer
from weft.text_worker.client import TextWorker
from weft.text_worker.jobs import Begin, Render
from weft.text_worker.templates import try_templates

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a * b %}{% endfor %}{% endfor %}"
HUGE = "{% set x = 'a' * 4000000000 %}"
PARTS = "{% for p in messages[0].content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
Tried = Callable[..., tuple[Tokenizer, TextWorker]]


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Tried]:
    """Tries a template of a model in a worker that is ended afterwards."""
    workers: list[TextWorker] = []

    def run(template: str, *, given: bool = False) -> tuple[Tokenizer, TextWorker]:
        make_tokenizer(make_checkpoint(tmp_path, small_config(num_hidden_layers=1)))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        checkpoint = open_checkpoint(tmp_path)
        tokenizer = Tokenizer.from_checkpoint(checkpoint)
        workers.append(TextWorker(Begin.of(checkpoint, 307)))
        try_templates(workers[-1], tokenizer, "model m", given=given)
        return tokenizer, workers[-1]

    yield run
    for worker in workers:
        worker.close()


def test_the_server_and_its_worker_render_alike(tried: Tried) -> None:
    tokenizer, worker = tried(PARTS)
    assert tokenizer.chat_templates.parts == {"default": True}
    messages = [{"role": "user", "content": "the loom"}]
    assert worker.submit(Render(messages)).result() == tokenizer.apply_chat_template(messages) == "the loom"


def test_a_template_without_end_or_bounds_is_refused(tried: Tried) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="model m: the chat template takes more than 1 s; give another"):
        tried(ENDLESS + PARTS)
    with pytest.raises(CheckpointError, match="model m: .*MemoryError"):
        tried(HUGE + PARTS)
    with pytest.raises(ConfigError, match="faulty"):
        tried("{% if %}", given=True)
    assert time.monotonic() - began < 60
