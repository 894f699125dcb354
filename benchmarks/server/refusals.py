"""Refusals of a full queue: how many 429 a second, how long each takes, and what the running streams notice.

    python benchmarks/server/refusals.py [--clients 64] [--requests 20000] [--save FILE]

A server over ranks that take 20 ms a step, with the embedded model's tokenizer; server and clients are two processes on
the same cores. Streams that run, and requests that wait, fill it; then every client sends a chat as soon as it was
refused the one before. `kept`: over one connection each; `new`: over a connection for each request. An answer that is
not a 429 with Retry-After and X-Should-Retry counts as wrong. Times are milliseconds, as a client sees them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import uvloop

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole
from benchmarks.common.fake_engine import WORD, AtOnce, Paced
from weft.base.settings import EngineConfig
from weft.engine.text import Tokenizer
from weft.frontend.server import run
from weft.frontend.server.http.listen import bind
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.serving.replicas import Replicas
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.embedded import embedded_model

CONTEXT = 65536
SLOTS, QUEUED = 16, 256
STEP_S = 0.02
QUESTION = "Explain in a few sentences how a ship stays afloat although it is made of steel, and what makes it sink. "
WANTED = {"refusals_per_s": 1000, "p99_ms": 50, "wrong": 0}
CONNECTIONS = ("kept", "new")


def serve(fd: int) -> None:
    """The server's process, until SIGTERM."""
    tokenizer = Tokenizer.from_checkpoint(open_checkpoint(embedded_model()))
    config = EngineConfig(max_model_len=CONTEXT, max_num_seqs=SLOTS, block_size=16)
    start = AtOnce(Paced(tokenizer.encode(WORD)[0], STEP_S, SLOTS * CONTEXT // 16), config)
    model = ServedModel("fake", tokenizer, tokenizer.vocab_size, 0)
    make = partial(Replicas, [start], max_queued=QUEUED, on_ready=lambda: print("up", flush=True))
    run.run_server(socket.socket(fileno=fd), model, make, 0.0)


def request(**fields: Any) -> bytes:
    """A chat, with its head."""
    body = json.dumps({"messages": [{"role": "user", "content": QUESTION}], **fields}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def filled(port: int, gaps: list[float]) -> AsyncIterator[None]:
    """A server whose slots run and whose queue is full; `gaps`: seconds from token to token of a stream that runs."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SLOTS)]
    try:
        for _, writer in connections:
            writer.write(request(stream=True, max_tokens=CONTEXT - 64, ignore_eos=True))
        await asyncio.gather(*(reader.readuntil(WORD.encode()) for reader, _ in connections))
        waiting = request(n=QUEUED // 2, max_tokens=CONTEXT - 64)
        for number in range(2):
            connections.append(await asyncio.open_connection("127.0.0.1", port))
            connections[-1][1].write(waiting)
            await asyncio.sleep(0.5 * (number + 1))
        readers = [asyncio.create_task(_read(reader, gaps)) for reader, _ in connections[:SLOTS]]
        yield
        for task in readers:
            task.cancel()
    finally:
        for _, writer in connections:
            writer.close()


async def _read(reader: asyncio.StreamReader, gaps: list[float]) -> None:
    last = time.monotonic()
    while await reader.readuntil(b"\n\n"):
        now = time.monotonic()
        gaps.append(now - last)
        last = now


async def client(port: int, count: int, took: list[float], connections: str) -> int:
    """Sends `count` requests one after the other; how many answers were not what they should be."""
    wrong, data, pair = 0, request(max_tokens=16), None
    for _ in range(count):
        began = time.monotonic()
        if pair is None or connections == "new":
            pair = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = pair
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split()[0])
        body = await reader.readexactly(length)
        took.append(time.monotonic() - began)
        complete = b"retry-after: " in head and b"x-should-retry: true" in head and b'"code":"queue_full"' in body
        wrong += not (head.startswith(b"http/1.1 429") and complete)
        if connections == "new":
            writer.close()
    if pair is not None:
        pair[1].close()
    return wrong


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    shares = (0.5, 0.9, 0.99, 1.0)
    return {f"p{100 * s:g}": round(1e3 * ordered[min(len(ordered) - 1, int(s * len(ordered)))], 1) for s in shares}


async def load(port: int, clients: int, requests: int, connections: str) -> dict[str, Any]:
    """Every request refused."""
    took: list[float] = []
    gaps: list[float] = []
    async with filled(port, gaps):
        await asyncio.sleep(2)
        alone, before = percentiles(gaps), len(gaps)
        began = time.monotonic()
        wrong = await asyncio.gather(*(client(port, requests // clients, took, connections) for _ in range(clients)))
        seconds = time.monotonic() - began
    return {
        "refusals": len(took),
        "wrong": sum(wrong),
        "seconds": round(seconds, 2),
        "refusals_per_s": round(len(took) / seconds),
        "refusal_ms": percentiles(took),
        "gap_ms": percentiles(gaps[before:]),
        "gap_without_ms": alone,
    }


def measure(args: argparse.Namespace, connections: str) -> dict[str, Any]:
    """One server under one load."""
    with bind("127.0.0.1", 0) as sock:
        words = [sys.executable, __file__, "--serve-fd", str(sock.fileno())]
        server = subprocess.Popen(words, pass_fds=[sock.fileno()], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            if server.stdout.readline() != "up\n":
                sys.exit("the server did not start")
            return uvloop.run(load(sock.getsockname()[1], args.clients, args.requests, connections))
        finally:
            server.terminate()
            server.wait(30)


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=whole, default=64)
    parser.add_argument("--requests", type=whole, default=20_000)
    parser.add_argument("--save", type=result_file, metavar="FILE")
    parser.add_argument("--serve-fd", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_fd is not None:
        serve(args.serve_fd)
        return
    result: dict[str, Any] = {"about": about(), "clients": args.clients, "wanted": WANTED}
    result["connections"] = {kind: measure(args, kind) for kind in CONNECTIONS}
    print(json.dumps(result, indent=1))
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
