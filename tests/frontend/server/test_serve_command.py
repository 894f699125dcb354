"""`weft serve` as a person types it, with real ranks: answers, faults, ends. Every server ends without a kill."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.tiny_chat import write_tiny_chat
from tests.support.waiting import alive, children, listening_port, ranks_of, ticks, until, wait_gone
from weft.cli.main import main
from weft.runtime.supervisor.start import Starting

ROOT = Path(__file__).resolve().parents[3]
LAYOUT = ("--attn-tp-size", "1", "--attn-dp-size", "2", "--dense-tp-size", "2", "--lm-head-tp-size", "2")
NAMED = ("--served-model-name", "small")
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_chat(tmp_path_factory.mktemp("served") / "tiny")


def weft(*words: str, **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "weft.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        **settings,
    )


@dataclass
class Served:
    """A server that is ready, and what it has printed."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.match(r"ready on (http://\S+);", line):
                self.url = match[1]
            if line.startswith("  curl "):
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> None:
        assert self._ready.wait(240) and self.url, self.text

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def children(self) -> list[int]:
        """Ranks, the text worker, what plans placements of experts."""
        return children(self.process.pid)

    def ranks(self) -> list[int]:
        return ranks_of(self.process.pid)

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(*words: str, ready: bool = True) -> Iterator[Served]:
    served = Served(weft("serve", *words, "--port", "0"))
    try:
        if ready:
            served.wait_ready()
        yield served
    finally:
        served.close()


def idle(pids: list[int]) -> bool:
    """Whether none of the processes used the processor for a second."""
    before = [ticks(pid) for pid in pids]
    time.sleep(1.0)
    return max(ticks(pid) - ticks_before for pid, ticks_before in zip(pids, before, strict=True)) <= 1


def check_held(page: str, ranks: list[dict[str, object]]) -> None:
    """/metrics and /ready say the same of what each rank holds."""
    for rank in ranks:
        labels = re.escape(f'{{dp="{rank["rank"]}",rank="{rank["rank"]}",replica="0",tp="0"}}')
        held = dict(re.findall(rf"^weft:rank_(\w+_bytes){labels} (\S+)$", page, re.M))
        assert held.keys() == {"weight_bytes", "kv_cache_bytes"}
        assert all(float(value) == rank[name] for name, value in held.items())
        assert float(held["weight_bytes"]) > 50_000 and float(held["kv_cache_bytes"]) > 50_000


def test_a_server_from_start_to_the_death_of_a_rank(model: Path) -> None:
    with serving(str(model), *LAYOUT, *NAMED, "--no-restart", "--log-level", "debug") as served:
        shown = served.text
        assert "attention: {tp: 1, dp: 2" in shown and "dense: {tp: 2}" in shown
        assert "max_model_len 256" in shown and "blocks)" in shown
        assert "rank 1 (dp 1) load" in shown and "rank 0 (dp 0) ready" in shown
        assert re.search(r"curl -N \S+/v1/chat/completions ", shown)

        pids = served.ranks()
        assert len(pids) == 2
        assert "libtorch" not in Path(f"/proc/{served.process.pid}/maps").read_text()

        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=240) as client:
            whole = client.chat.completions.create(model="small", messages=HELLO, temperature=0, max_tokens=20)
            with client.chat.completions.create(
                model="small",
                messages=HELLO,
                temperature=0,
                max_tokens=20,
                stream=True,
            ) as stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            assert text == whole.choices[0].message.content
            assert whole.usage is not None and whole.usage.completion_tokens > 0

            page = httpx.get(f"{served.url}/metrics", timeout=240).text
            work = dict(re.findall(r'^weft:rank_(\w+)_total{dp="0",rank="0",replica="0",tp="0"} (\S+)$', page, re.M))
            assert float(work["rows"]) > 20 and float(work["collective_bytes"]) > 1000
            assert 0 < float(work["collective_seconds"]) < float(work["busy_seconds"])
            body = httpx.get(f"{served.url}/ready", timeout=240).json()
            check_held(page, body["ranks"])
            assert body["resolved"]["layout"]["attention"]["dp"] == 2
            assert any(line.startswith("max_model_len 256") for line in body["resolved"]["settings"])

            every = served.children()
            assert len(every) == 3 and {*pids} < {*every}  # the text worker, too
            until(lambda: idle([served.process.pid, *every]), "an idle server uses the processor")

            with (
                pytest.raises(openai.APIError),
                client.completions.create(
                    model="small", prompt="x", n=32, max_tokens=250, stream=True, extra_body={"ignore_eos": True}
                ) as cut,
            ):
                for _ in cut:
                    if alive(pids[1]):
                        os.kill(pids[1], signal.SIGKILL)
        assert served.end() == 69
        assert re.search(
            rf"weft serve: rank 1 \(dp 1\) pid {pids[1]} was killed by SIGKILL in phase serving", served.text
        )
        assert "Traceback" not in served.text
        wait_gone(every)


DEBUG = ("--tp", "2", "--comm", "gloo", "--log-level", "debug")


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [(signal.SIGINT, DEBUG, "collectives: gloo over"), (signal.SIGTERM, (), "layout: 1 rank with the whole model")],
)
def test_a_signal_ends_everything(model: Path, number: signal.Signals, words: tuple[str, ...], said: str) -> None:
    with serving(str(model), *words) as served:
        assert said in served.text
        assert words or len(served.lines) <= 8, served.text
        pids = served.children()
        with httpx.Client(base_url=served.url, timeout=240) as client:
            assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
        served.process.send_signal(number)
        assert served.end() == 0
        assert served.lines[-1] == "stopped" and "Traceback" not in served.text
        wait_gone(pids)


def test_a_killed_server_leaves_no_rank(model: Path) -> None:
    with serving(str(model)) as served:
        pids = served.ranks()
        served.process.kill()
        served.end()
        wait_gone(pids)


def test_requests_wait_for_the_model_and_a_signal_ends_the_start(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_TEST_FAULTS", "1")
    monkeypatch.setenv("WEFT_FAULT", "load:1:1:delay=300")
    served = Served(weft("serve", str(model), *LAYOUT, "--port", "0"))
    try:
        until(lambda: listening_port(served.process.pid), "nobody listens")
        url = f"http://127.0.0.1:{listening_port(served.process.pid)}"
        with httpx.Client(base_url=url, timeout=240) as client:
            ready = client.get("/ready")
            assert ready.status_code == 503 and ready.json()["error"]["code"] == "not_ready"
            answer = client.post("/v1/completions", json={"prompt": "x"})
            assert answer.status_code == 503 and "retry-after" in answer.headers
            assert client.get("/health").status_code == 200
        until(lambda: len(served.ranks()) == 2)
        pids = served.ranks()
        served.process.send_signal(signal.SIGINT)
        assert served.end() == 0
        wait_gone(pids)
        assert "Traceback" not in served.text
    finally:
        served.close()


def refused(*words: str) -> tuple[int, str]:
    with weft(*words) as process:
        try:
            text, _ = process.communicate(timeout=240)
        finally:
            process.kill()
    return process.returncode, text


def test_a_port_in_use_is_said_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, text = refused("serve", "/no/such/model", "--port", str(port))
    assert code == 78 and f"port {port} on 127.0.0.1 is in use" in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--max-model-len", "300"), 78, "max_model_len 300: the model's context is 256 tokens"),
        (("--tp", "7"), 78, "legal"),
        (("--kv-cache-memory", "20KB", "--max-model-len", "256"), 78, "KV cache"),
        (("--kv-cache-memory", "999TB"), 78, "available"),
        (("--host", "0.0.0.0"), 78, "legal: 127.0.0.1"),
        (("--device", "cuda", "--tp", "2"), 78, "device cuda"),
        (("--comm", "carrier-pigeon"), 2, "comm"),
        (("--prot", "1"), 2, "--port"),
    ],
)
def test_what_cannot_be_served_is_said_without_a_start(
    model: Path,
    words: tuple[str, ...],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Starting, "__init__", lambda *_, **__: pytest.fail("ranks were started"))
    got, text = main(["serve", str(model), "--port", "0", *words]), "".join(capsys.readouterr())
    assert got == code, text
    assert said in text and "Traceback" not in text and "spawn" not in text


def test_a_bad_checkpoint_is_said_without_a_start(model: Path, tmp_path: Path) -> None:
    bad = write_tiny_chat(tmp_path / "bad")
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    got, text = refused("serve", str(bad), "--port", "0")
    assert got == 65 and "model.safetensors" in text and "spawn" not in text
