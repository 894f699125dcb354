"""How long the event loop stands still, and how long an answer takes, for requests that are hard to read or wrong.

    python benchmarks/event_loop.py [--save FILE]

A server over ranks that answer at once, with the embedded model's tokenizer, in a process of its own; a timer in its
loop notes how late it comes. Each case is sent several times; times are milliseconds, the worst of them.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from about import about
from front_end import AtOnce, Paced

from weft.checkpoint import open_checkpoint
from weft.checkpoint.embedded import embedded_model
from weft.server import run
from weft.server.listen import bind
from weft.server.models import ServedModel
from weft.server.replicas import Replicas
from weft.settings import EngineConfig
from weft.text import Tokenizer

CONTEXT = 8192
TICK_S = 0.002
TIMES = 5
LIMIT_MS = 50.0


def case(**fields: Any) -> bytes:
    """A body."""
    return json.dumps(fields).encode()


def chat(content: str, count: int = 1) -> bytes:
    """A conversation of `count` messages."""
    return case(messages=[{"role": "user", "content": content}] * count, max_tokens=1)


CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a short chat": ("/v1/chat/completions", lambda: chat("Hello")),
    "a context of words": ("/v1/completions", lambda: case(prompt="word " * (CONTEXT - 64), max_tokens=1)),
    "100,000 letters without a space": ("/v1/completions", lambda: case(prompt="a" * 100_000, max_tokens=1)),
    "100,000 digits": ("/v1/completions", lambda: case(prompt="7" * 100_000, max_tokens=1)),
    "4,000 letters without a space": ("/v1/completions", lambda: case(prompt="q" * 4000, max_tokens=1)),
    "100,000 letters, no text but spaces": ("/v1/completions", lambda: case(prompt=" " * 100_000, max_tokens=1)),
    "100,000 letters to /tokenize": ("/tokenize", lambda: case(prompt="ab" * 50_000)),
    "2,000 messages": ("/v1/chat/completions", lambda: chat("Hi", 2000)),
    "1,000,000 token ids": ("/v1/completions", lambda: case(prompt=[5] * 1_000_000)),
    "1,000,000 token ids, one of them wrong": ("/v1/completions", lambda: case(prompt=[5] * 999_999 + [10**9])),
    "1,000,000 token ids to /detokenize": ("/detokenize", lambda: case(tokens=[5] * 1_000_000)),
    "a list of 100,000 prompts": ("/v1/completions", lambda: case(prompt=["x"] * 100_000)),
    "brackets 100,000 deep": ("/v1/completions", lambda: b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "100,000 biases": ("/v1/completions", lambda: case(prompt="x", logit_bias={str(i): 1 for i in range(100_000)})),
    "100,000 stop strings": ("/v1/completions", lambda: case(prompt="x", stop=["x"] * 100_000)),
    "128 long bad words": ("/v1/completions", lambda: case(prompt="x", max_tokens=1, bad_words=["ab " * 340] * 128)),
    "a text of 10 MiB": ("/v1/completions", lambda: case(prompt="x" * (10 << 20))),
    "17 MiB": ("/v1/completions", lambda: b" " * (17 << 20)),
}


def serve() -> None:
    """The server's process: prints its port, then on every line of its input the longest stall since the last."""
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(embedded_model()))
    config = EngineConfig(max_model_len=CONTEXT, max_num_seqs=8, max_num_batched_tokens=CONTEXT, block_size=16)
    executor = Paced(5, 0.0, 8 * CONTEXT // 16)
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

    model = ServedModel("fake", tokenizer, tokenizer.vocab_size, 0)
    run.run_server(sock, model, partial(Replicas, [AtOnce(executor, config)], max_queued=8, on_ready=ready), 1.0)


def send(port: int, path: str, body: bytes) -> tuple[int, float]:
    """(status, milliseconds from the last byte of the request, or from an answer that did not wait for it)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest("POST", path)
        connection.putheader("content-type", "application/json")
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


def measure(server: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """The worst of TIMES for every case."""
    assert server.stdin is not None and server.stdout is not None
    port, found = int(server.stdout.readline()), {}

    def stall() -> float:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write("\n")
        server.stdin.flush()
        return float(server.stdout.readline())

    send(port, *_sent("a short chat"))
    for name in CASES:
        path, body = _sent(name)
        stall()
        answers = [send(port, path, body) for _ in range(TIMES)]
        found[name] = {
            "status": answers[0][0],
            "answer_ms": round(max(ms for _, ms in answers), 1),
            "stall_ms": round(stall(), 1),
        }
        print(f"{found[name]['status']}  {found[name]['answer_ms']:8.1f}  {found[name]['stall_ms']:8.1f}  {name}")
    return found


def _sent(name: str) -> tuple[str, bytes]:
    path, make = CASES[name]
    return path, make()


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, metavar="FILE")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    print("status  answer ms  stall ms")
    try:
        found = measure(server)
    finally:
        server.terminate()
        server.wait(30)
    worst = max(one["stall_ms"] for one in found.values())
    result = {"about": about(), "limit_ms": LIMIT_MS, "worst_stall_ms": worst, "cases": found}
    print(f"longest stall {worst} ms; wanted: at most {LIMIT_MS:g}")
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
