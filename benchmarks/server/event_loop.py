"""Requests that are wrong or hard to read, beside a running stream: how long each answer takes, how long the event loop
stands still meanwhile, and how long the stream waits for its next token.

    python benchmarks/server/event_loop.py [--save FILE]

A server over ranks that take 5 ms a step, with the embedded model's tokenizer and context, in a process of its own; a
timer in its loop notes how late it comes. Each case is sent several times. All times are milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command
from benchmarks.common.fake_engine import WORD, AtOnce, Paced
from weft.base.settings import EngineConfig
from weft.engine.text import Tokenizer
from weft.frontend.server import run
from weft.frontend.server.http.listen import bind
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.serving.replicas import Replicas
from weft.frontend.text_worker.jobs import Begin
from weft.frontend.text_worker.lanes import TextWorkers
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.embedded import embedded_model

CONTEXT = 8192
TICK_S = 0.002
STEP_S = 0.005
TIMES = 20
LIMIT_MS = 50.0
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def case(**fields: Any) -> bytes:
    """A body."""
    return json.dumps(fields).encode()


def text(**fields: Any) -> Callable[[], bytes]:
    """What makes a body of a completion with a short prompt."""
    return lambda: case(**{"prompt": "Hello", **fields})


def chat(content: str, count: int = 1) -> bytes:
    """A conversation of `count` messages."""
    return case(messages=[{"role": "user", "content": content}] * count, max_tokens=1)


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "no JSON": (TEXT, lambda: b'{"prompt": "Hello", "max_tokens": '),
    "a field of another type": (TEXT, text(max_tokens="many")),
    "messages that are a text": (CHAT, lambda: case(messages="Hello")),
    "an unknown field": (TEXT, text(max_token=1)),
    "n of 1,000,000,000": (TEXT, text(n=10**9)),
    "max_tokens of -1": (TEXT, text(max_tokens=-1)),
    "max_tokens of 10^12": (TEXT, text(max_tokens=10**12)),
    "logprobs of 10^6": (TEXT, text(logprobs=10**6)),
    "temperature NaN": (TEXT, text(temperature=float("nan"))),
    "an unknown model": (TEXT, text(model="another")),
    "a token id outside the vocabulary": (TEXT, text(prompt=[10**9])),
    "an empty prompt": (TEXT, text(prompt="")),
    "no prompt at all": (TEXT, text(prompt=[])),
    "9,000 words": (TEXT, text(prompt="word " * 9000)),
    "a chat of 9,000 words": (CHAT, lambda: chat("word " * 9000)),
    "100,000 letters without a space": (TEXT, text(prompt="a" * 100_000)),
    "100,000 digits": (TEXT, text(prompt="7" * 100_000)),
    "a chat of 100,000 digits": (CHAT, lambda: chat("7" * 100_000)),
    "1,000,000 letters without a space": (TEXT, text(prompt="a" * 1_000_000)),
    "1,000,000 letters of words": (TEXT, text(prompt="word " * 200_000)),
    "a chat of 1,000,000 letters of words": (CHAT, lambda: chat("word " * 200_000)),
    "a text of 10 MiB": (TEXT, text(prompt="x" * (10 << 20))),
    "2,000 messages": (CHAT, lambda: chat("Hi", 2000)),
    "1,000,000 token ids": (TEXT, text(prompt=[5] * 1_000_000)),
    "1,000,000 token ids, one of them wrong": (TEXT, text(prompt=[5] * 999_999 + [10**9])),
    "1,000,000 token ids to /detokenize": ("/detokenize", lambda: case(tokens=[5] * 1_000_000)),
    "a list of 100,000 prompts": (TEXT, text(prompt=["x"] * 100_000)),
    "brackets 100,000 deep": (TEXT, lambda: b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "100,000 keys": (TEXT, lambda: case(**{f"k{index}": 1 for index in range(100_000)})),
    "100,000 biases": (TEXT, text(logit_bias={str(index): 1 for index in range(100_000)})),
    "100,000 stop strings": (TEXT, text(stop=["x"] * 100_000)),
    "a body of 17 MiB": (TEXT, lambda: b" " * (17 << 20)),
}
TAKEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a short chat": (CHAT, lambda: chat("Hello")),
    "a context of words": (TEXT, text(prompt="word " * (CONTEXT - 64), max_tokens=1)),
    "4,000 letters without a space": (TEXT, text(prompt="q" * 4000, max_tokens=1)),
    "100,000 spaces": (TEXT, text(prompt=" " * 100_000, max_tokens=1)),
    "100,000 letters to /tokenize": ("/tokenize", lambda: case(prompt="ab" * 50_000)),
    "128 long bad words": (TEXT, text(max_tokens=1, bad_words=["ab " * 340] * 128)),
}
LONG_HEAD = "a head of 64 KiB"


def serve() -> None:
    """The server's process: prints its port, then on every line of its input the longest stall since the last."""
    checkpoint = open_checkpoint(embedded_model())
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    config = EngineConfig(max_model_len=CONTEXT, max_num_seqs=8, max_num_batched_tokens=CONTEXT, block_size=16)
    executor = Paced(tokenizer.encode(WORD)[0], STEP_S, 8 * CONTEXT // 16)
    sock = bind("127.0.0.1", 0)
    longest = [0.0]

    def ready() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), tell)
        tick(loop, time.monotonic())
        print(sock.getsockname()[1], flush=True)

    def tick(loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = time.monotonic()
        longest[0] = max(longest[0], now - due)
        loop.call_later(TICK_S, tick, loop, now + TICK_S)

    def tell() -> None:
        if not sys.stdin.readline():
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            return
        stall, longest[0] = longest[0], 0.0
        print(1e3 * stall, flush=True)

    texts = TextWorkers(Begin.of(checkpoint, tokenizer.vocab_size))
    model = ServedModel("fake", tokenizer, tokenizer.vocab_size, 0, text_worker=texts)
    run.run_server(sock, model, partial(Replicas, [AtOnce(executor, config)], max_queued=8, on_ready=ready), 1.0)
    texts.close()


class Neighbour(threading.Thread):
    """A client that reads one stream after the other; `longest_s`: the longest wait for a token since it was asked."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self.ended = port, threading.Event()
        self.longest_s, self.tokens = 0.0, 0

    def run(self) -> None:
        """Until `ended`."""
        while not self.ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("POST", TEXT, text(stream=True, max_tokens=CONTEXT - 64)(), HEADERS)
            answer, last = connection.getresponse(), 0.0
            while not self.ended.is_set() and (line := answer.readline()):
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    self.longest_s = max(self.longest_s, now - last) if last else self.longest_s
                    self.tokens, last = self.tokens + 1, now
            connection.close()


HEADERS = {"content-type": "application/json"}


def send(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
    """(status, milliseconds from the last byte of the request, or from an answer that did not wait for it)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest("POST", path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        try:
            connection.send(body)
        except OSError:
            pass  # refused by its head
        began = time.monotonic()
        answer = connection.getresponse()
        answer.read()
        return answer.status, 1e3 * (time.monotonic() - began)
    finally:
        connection.close()


class Measured:
    """The server's process, and the neighbour that reads beside every case."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server
        assert server.stdout is not None
        self._port = int(server.stdout.readline())
        self._neighbour = Neighbour(self._port)
        self._neighbour.start()

    def case(self, name: str, path: str, body: bytes, headers: dict[str, str] = HEADERS) -> dict[str, Any]:
        """Its status, the answers' times, and the longest stall and wait while they came."""
        send(self._port, path, body, headers)
        self._stall()
        self._neighbour.longest_s, before = 0.0, self._neighbour.tokens
        answers = [send(self._port, path, body, headers) for _ in range(TIMES)]
        while self._neighbour.tokens < before + 3:
            time.sleep(STEP_S)
        found = {
            "status": answers[0][0],
            "p50_ms": round(statistics.median(ms for _, ms in answers), 1),
            "max_ms": round(max(ms for _, ms in answers), 1),
            "stall_ms": round(self._stall(), 1),
            "neighbour_ms": round(1e3 * self._neighbour.longest_s, 1),
        }
        print("{status}  {p50_ms:8.1f}  {max_ms:8.1f}  {stall_ms:8.1f}  {neighbour_ms:8.1f}  ".format(**found) + name)
        return found

    def _stall(self) -> float:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return float(self._server.stdout.readline())

    def cases(self, cases: dict[str, tuple[str, Callable[[], bytes]]]) -> dict[str, Any]:
        """All of them."""
        return {name: self.case(name, path, make()) for name, (path, make) in cases.items()}

    def close(self) -> None:
        """Lets the neighbour go."""
        self._neighbour.ended.set()
        self._neighbour.join(10)


def measure(server: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """Every case, by whether it is refused or taken."""
    measured = Measured(server)
    print("status   p50 ms    max ms  stall ms  neighbour ms")
    refused = measured.cases(REFUSED)
    refused[LONG_HEAD] = measured.case(LONG_HEAD, TEXT, case(prompt="Hello"), HEADERS | {"x-long": "y" * 65536})
    taken = measured.cases(TAKEN)
    measured.close()
    return {"refused": refused, "taken": taken}


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=result_file, metavar="FILE")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        found = measure(server)
    finally:
        server.terminate()
        server.wait(30)
    stall = max(one["stall_ms"] for kind in found.values() for one in kind.values())
    slowest = max(one["max_ms"] for one in found["refused"].values())
    print(f"slowest refusal {slowest} ms, longest stall {stall} ms; wanted: at most {LIMIT_MS:g}")
    if args.save:
        worst = {"slowest_refusal_ms": slowest, "longest_stall_ms": stall}
        about_it = {"about": about(), "limit_ms": LIMIT_MS, "step_ms": 1e3 * STEP_S, "times": TIMES}
        args.save.write_text(json.dumps({**about_it, **worst, **found}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
