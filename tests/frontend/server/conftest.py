"""A server in a thread: the real application, engine and tokenizer over a scripted executor."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.fakes.fake_executor import ScriptedExecutor
from tests.support.tiny_chat import CONFIG, END, write_tiny_chat
from tests.support.waiting import PATIENCE_S
from weft.base.errors import PeerError
from weft.base.settings import EngineConfig
from weft.engine.core.engine import Engine
from weft.engine.text import Tokenizer
from weft.frontend.chat.config import ChatConfig, chat_forms
from weft.frontend.chat.template_probe import probe
from weft.frontend.server.http.config import HttpConfig
from weft.frontend.server.http.listen import bind
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.server.page.layout_view import LayoutView
from weft.frontend.server.run import serve
from weft.frontend.serving.engine_loop import WakeableExecutor
from weft.frontend.serving.recovery.restarts import Recovery
from weft.frontend.serving.replicas import Replicas
from weft.frontend.text_worker.texts import Texts
from weft.model.checkpoint import open_checkpoint
from weft.runtime.ipc.report import RankReport

LONGEST = 200
ARGUMENTS = '{"city":  "Par\\"is", "n": 2}'
TWO_CALLS = "So: 1 < 2." + 2 * f'\n<tool_call>\n{{"name": "get", "arguments": {ARGUMENTS}}}\n</tool_call>'
THOUGHT = "<think>Let me see.</think>It is so."
THINKS = ChatConfig(reasoning_parser="think")


class ReadyAtOnce:
    """A start without ranks; one that is not the first waits for `cancel`."""

    def __init__(self, executor: ScriptedExecutor, config: EngineConfig, ranks: Sequence[RankReport] = ()) -> None:
        self.executor, self.config, self.ranks = executor, config, ranks
        self.starts, self.cancelled = 0, threading.Event()

    def __call__(self) -> tuple[Engine, WakeableExecutor]:
        self.starts += 1
        if self.starts > 1:
            self.cancelled.wait(60)
            raise PeerError("told to end")
        return Engine(self.executor, self.config, [END], vocab_size=CONFIG["vocab_size"]), self.executor

    def cancel(self) -> None:
        self.executor.gate.set()
        self.cancelled.set()

    def lacking(self) -> str:
        return ""

    def reports(self) -> list[RankReport]:
        return list(self.ranks)


@dataclass
class Running:
    """A server that listens on `url`."""

    url: str
    executors: list[ScriptedExecutor]
    engines: Replicas
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    def __post_init__(self) -> None:
        self._client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    @property
    def executor(self) -> ScriptedExecutor:
        """The first replica's."""
        return self.executors[0]

    @property
    def engine(self) -> Engine:
        """The first replica's."""
        engine = self.engines.loops[0].engine
        assert engine is not None
        return engine

    def client(self) -> openai.OpenAI:
        return self._client

    def stop(self) -> None:
        self._client.close()
        self.http.close()
        for executor in self.executors:
            executor.gate.set()
        with suppress(RuntimeError):  # its loop has ended already
            self.loop.call_soon_threadsafe(self.engines.stop)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


Start = Callable[..., Running]


@contextmanager
def serving(start: Start, text: str, **options: Any) -> Iterator[Running]:
    """A server of its own, with a context of 2,048 tokens."""
    running = start(text, longest=2048, **options)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_checkpoint(open_checkpoint(write_tiny_chat(tmp_path_factory.mktemp("tiny-server"))))


@pytest.fixture(scope="session")
def start_server(tokenizer: Tokenizer) -> Start:
    """start(text, ...) serves a model that always says `text`, then ends."""

    def start(
        text: str,
        *,
        step_s: float = 0.0,
        max_queued: int = 8,
        max_num_seqs: int = 8,
        dp: int = 1,
        replicas: int = 1,
        recovery: Callable[[], Recovery] | None = None,
        longest: int = LONGEST,
        max_logprobs: int = 20,
        http: HttpConfig | None = None,
        chat: ChatConfig | None = None,
        sock: socket.socket | None = None,
        ranks: type[ScriptedExecutor] = ScriptedExecutor,
        texts: Texts | None = None,
        reports: Sequence[RankReport] = (),
        layout: LayoutView | None = None,
    ) -> Running:
        blocks = max(64, 2 * longest // 16)
        script = [*tokenizer.encode(text), END]
        executors = [ranks(script, step_s=step_s, dp=dp, num_blocks=blocks) for _ in range(replicas)]
        config = EngineConfig(
            max_model_len=longest, max_num_seqs=max_num_seqs, block_size=16, max_logprobs=max_logprobs
        )
        listening = sock or bind("127.0.0.1", 0)
        url = (
            "http://localhost"
            if listening.family == socket.AF_UNIX
            else f"http://127.0.0.1:{listening.getsockname()[1]}"
        )
        forms = chat_forms(probe(tokenizer.chat_templates, tokenizer.added_tokens), chat or ChatConfig())
        model = ServedModel("tiny", tokenizer, CONFIG["vocab_size"], 0, forms=forms, text_worker=texts)
        started: list[tuple[Replicas, asyncio.AbstractEventLoop]] = []
        ready = threading.Event()

        async def main() -> None:
            starts = [ReadyAtOnce(executor, config, reports) for executor in executors]
            engines = Replicas(starts, max_queued=max_queued, on_ready=ready.set, recovery=recovery)
            started.append((engines, asyncio.get_running_loop()))
            try:
                await serve(listening, model, engines, http, layout)
            except PeerError:
                assert engines.failure is not None

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert ready.wait(PATIENCE_S)
        engines, loop = started[0]
        return Running(url, executors, engines, loop, thread)

    return start


@pytest.fixture(scope="session")
def alphabet(start_server: Start) -> Iterator[Running]:
    """Says the alphabet, then ends."""
    running = start_server("abcdefghijklmnopqrstuvwxyz")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="module")
def caller(start_server: Start) -> Iterator[Running]:
    """Always answers with two calls."""
    with serving(start_server, TWO_CALLS) as running:
        yield running


@pytest.fixture(scope="module")
def thinker(start_server: Start) -> Iterator[Running]:
    """Always thinks first."""
    with serving(start_server, THOUGHT, chat=THINKS) as running:
        yield running
