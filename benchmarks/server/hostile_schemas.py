"""Schemas that take long to compile, beside a running stream: how long its tokens are apart, with and without them.

    python benchmarks/server/hostile_schemas.py [--schemas 200] [--save FILE.json] [-- OPTIONS OF weft serve]

Starts `weft serve` with the embedded model, or the one that the options name. One stream runs all the time: first
alone, then while each schema in turn is asked for by a request of one token. All times are milliseconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole
from benchmarks.common.timing import quantile

ALONE_S, READY_S, ANSWER_S = 20.0, 300.0, 120.0
LINE_MS = 300.0
"""A gap may be so much longer than 99 % of those of the stream alone."""


def schemas(count: int) -> Iterator[dict[str, Any]]:
    """Large factors, long texts, counted patterns and many properties; no two alike."""
    draw = random.Random(0)
    for number in range(count):
        odd = 2 * draw.randrange(5_000, 60_000) + 1
        yield (
            {"type": "integer", "multipleOf": odd},
            {"type": "string", "pattern": f"^(([a-z]{{1,{20 + number % 40}}}x){{1,40}}y){{1,20}}$"},
            {"type": "array", "items": {"type": "number", "multipleOf": odd / 1000}, "minItems": 3},
            {"type": "string", "minLength": odd, "maxLength": odd + 7},
            {"properties": {f"p{odd}_{at}": {"type": "string"} for at in range(1000)}, "additionalProperties": False},
        )[number % 5]


class Stream(threading.Thread):
    """Greedy text, answer after answer; `gaps` are those between its tokens."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.gaps, self.ends = port, list[float](), threading.Event()

    def run(self) -> None:
        while not self.ends.is_set():
            body = {"prompt": "Once upon a time", "max_tokens": 1000, "ignore_eos": True, "stream": True}
            last = 0.0
            with sent(self.port, body) as response:
                while not self.ends.is_set() and (line := response.readline()):
                    if line.startswith(b"data: {"):
                        now = time.perf_counter()
                        if last:
                            self.gaps.append(1e3 * (now - last))
                        last = now

    def taken(self) -> list[float]:
        """The gaps since the last call."""
        found, self.gaps = self.gaps, []
        return found


@contextmanager
def sent(port: int, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    """The answer to a completion."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        yield connection.getresponse()
    finally:
        connection.close()


@contextmanager
def serving(words: list[str]) -> Iterator[int]:
    """The port of a server of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "weft", "serve", *words, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + READY_S
        while not _ready(port):
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit("the server did not become ready")
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait()


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def summary(gaps: list[float]) -> dict[str, float]:
    """Of a stream."""
    shares = {"p50": 0.5, "p99": 0.99, "longest": 1.0}
    return {name: round(quantile(gaps, share), 1) for name, share in shares.items()} | {"tokens": len(gaps)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--schemas", type=whole, default=200)
    parser.add_argument("--save", type=result_file)
    parser.add_argument("words", nargs="*", help="options of weft serve")
    arguments = parser.parse_args()
    with serving(arguments.words) as port:
        stream = Stream(port)
        stream.start()
        time.sleep(ALONE_S)
        alone = stream.taken()
        answers, longest = Counter[int](), 0.0
        for schema in schemas(arguments.schemas):
            began = time.perf_counter()
            with sent(port, {"prompt": "x", "max_tokens": 1, "structured_outputs": {"json": schema}}) as response:
                response.read()
                answers[response.status] += 1
            longest = max(longest, 1e3 * (time.perf_counter() - began))
        beside = stream.taken()
        stream.ends.set()
        stream.join()
    cases: dict[str, Any] = {
        "alone": summary(alone), "beside": summary(beside), "answers": dict(answers),
        "longest_answer": round(longest, 1), "line": round(quantile(alone, 0.99) + LINE_MS, 1),
    }  # fmt: skip
    for name, found in cases.items():
        print(f"{name}: {found}")
    if arguments.save:
        arguments.save.write_text(json.dumps({"about": about(), "cases": cases}, indent=1) + "\n")
    return int(max(beside) > cases["line"])


if __name__ == "__main__":
    run_command(main)
