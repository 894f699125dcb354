"""The front end alone: HTTP, tokenizer, scheduler and detokenizer over ranks that answer at once after a fixed time.

    python benchmarks/server/front_end.py [--streams 512] [--requests 2048] [--step-ms 20] [--arrival KIND ...]
        [--replicas 1] [--save FILE]

Server and load generator are two processes on the same cores. Every stream is a chat of the embedded model's tokenizer;
each client sends its next request when the one before has ended. The answer's text is known, so that a stream that is
short, doubled or cut counts as broken. Streams begin in three ways, each with a server of its own: `ramp`, evenly over
a second; `together`, every client connects and asks at the same moment; `connected`, the same over connections that
are open already. First tokens are timed by the client, from when it has sent the request, and by the server, from when
it reads the request to when it writes the token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import resource
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
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
from weft.frontend.server.http import connection
from weft.frontend.server.http.buffered_transport import BufferedTransport
from weft.frontend.server.http.listen import bind
from weft.frontend.server.openai.models import ServedModel
from weft.frontend.serving.replicas import Replicas
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.embedded import embedded_model

QUESTION = "Explain in a few sentences how a ship stays afloat although it is made of steel, and what makes it sink. "
FIRST = b'"content":"' + WORD.encode()
ARRIVALS = ("ramp", "together", "connected")
RAMP_S = 1.0
WANTED = {"tokens_per_s": 10_000, "ttft_p99_ms": 250, "broken": 0}


class Noting(BufferedTransport):
    """A transport that notes how long each answer's first token took, from the request's first byte to its write."""

    firsts: list[float] = []
    began = 0.0

    def write(self, data: bytes) -> None:
        """Looks at what is written."""
        if self.began and FIRST in data:
            self.firsts.append(time.monotonic() - self.began)
            self.began = 0.0
        super().write(data)


class Timed(connection.Connection):
    """Says when a request begins."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.transport.began = time.monotonic()  # type: ignore[attr-defined]


def serve(fd: int, streams: int, step_s: float, replicas: int) -> None:
    """The server's process: until SIGTERM; then its first tokens, memory and processor time as a line of JSON."""
    checkpoint = open_checkpoint(embedded_model())
    tokenizer = Tokenizer.from_checkpoint(checkpoint)
    slots = -(-streams // replicas)
    config = EngineConfig(max_model_len=1024, max_num_seqs=slots, max_num_batched_tokens=16384, block_size=16)
    starts = [AtOnce(Paced(tokenizer.encode(WORD)[0], step_s, slots * 64), config) for _ in range(replicas)]
    model = ServedModel("fake", tokenizer, tokenizer.vocab_size, 0)
    make = partial(Replicas, starts, max_queued=streams, on_ready=lambda: print("up", flush=True))
    run.Connection, connection.BufferedTransport = Timed, Noting  # type: ignore[misc,attr-defined]
    run.run_server(socket.socket(fileno=fd), model, make, 1.0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seen = {
        "ttft_ms": percentiles(Noting.firsts),
        "peak_rss_mib": round(peak_rss_kib() / 1024, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
    }
    print(json.dumps(seen), flush=True)


def peak_rss_kib() -> int:
    """Of this program: getrusage's also counts what the process was before it began."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


@dataclass(slots=True)
class Call:
    """One request as the client saw it; times in seconds."""

    wanted: int
    sent: float
    first: float = 0.0
    last: float = 0.0
    writes: list[float] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    @property
    def broken(self) -> bool:
        """Whether the answer is not the one that is due."""
        return self.body.count(FIRST) == 0 or self.text() != WORD * self.wanted

    def text(self) -> str:
        """The answer; nothing of one that did not end as it should."""
        if b"data: [DONE]\n\n" not in self.body or b'"finish_reason":"length"' not in self.body:
            return ""
        frames = [line for line in bytes(self.body).split(b"\n") if line.startswith(b"data: {")]
        choices = [choice for frame in frames for choice in json.loads(frame[6:])["choices"]]
        return "".join(choice["delta"].get("content", "") for choice in choices)


class Client(asyncio.Protocol):
    """One connection that sends requests one after another until `todo` is empty."""

    def __init__(self, todo: list[int], done: list[Call], over: asyncio.Future[None], *, at_once: bool) -> None:
        self._at_once = at_once
        self._todo, self._done, self._over = todo, done, over
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        if self._at_once:
            self.ask()

    def ask(self) -> None:
        """Sends the next request, or closes."""
        if not self._todo:
            self._call = None
            self._transport.close()
            return
        wanted = self._todo.pop()
        asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": wanted, "stream": True}
        body = json.dumps(asked).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._call = Call(wanted, time.monotonic())
        self._transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def data_received(self, data: bytes) -> None:
        call, now = self._call, time.monotonic()
        if call is None:
            return
        if not call.first and FIRST in data:
            call.first = now
        elif call.first:
            call.writes.append(now - call.last)
        call.last = now
        call.body += data
        if data.endswith(b"0\r\n\r\n"):
            self._done.append(call)
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._call is not None:
            self._done.append(self._call)
        if not self._over.done():
            self._over.set_result(None)


async def load(port: int, streams: int, requests: int, tokens: int, arrival: str) -> list[Call]:
    """Every request, ended or broken."""
    draw = random.Random(0)
    todo = [draw.randint(tokens // 2, tokens * 3 // 2) for _ in range(requests)]
    done: list[Call] = []
    loop = asyncio.get_running_loop()
    overs: list[asyncio.Future[None]] = [loop.create_future() for _ in range(streams)]
    begin = time.monotonic()

    async def client(index: int) -> Client:
        if arrival == "ramp":
            await asyncio.sleep(begin + RAMP_S * index / streams - time.monotonic())
        make = partial(Client, todo, done, overs[index], at_once=arrival != "connected")
        return (await loop.create_connection(make, "127.0.0.1", port))[1]

    clients = await asyncio.gather(*map(client, range(streams)))
    if arrival == "connected":
        await asyncio.sleep(1)
        for one in clients:
            one.ask()
    await asyncio.wait_for(asyncio.gather(*overs), 300)
    return done


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    return {
        f"p{int(100 * share)}": round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)
        for share in (0.5, 0.9, 0.99, 1.0)
    }


def figures(calls: list[Call], streams: int) -> dict[str, Any]:
    """What is printed and saved. `first_ttft_ms`: of the clients' first requests alone, which came as said."""
    seconds = max(call.last for call in calls) - min(call.sent for call in calls)
    earliest = sorted(calls, key=lambda call: call.sent)[:streams]
    whole = sum(call.wanted for call in calls if not call.broken)
    return {
        "requests": len(calls),
        "broken": sum(call.broken for call in calls),
        "tokens": whole,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(whole / seconds),
        "ttft_ms": percentiles([call.first - call.sent for call in calls if call.first]),
        "first_ttft_ms": percentiles([call.first - call.sent for call in earliest if call.first]),
        "gap_ms": percentiles([gap for call in calls for gap in call.writes]),
    }


def measure(args: argparse.Namespace, arrival: str) -> dict[str, Any]:
    """One server under one load."""
    sock = bind("127.0.0.1", 0)
    words = ["--streams", str(args.streams), "--step-ms", str(args.step_ms), "--replicas", str(args.replicas)]
    words += ["--serve-fd", str(sock.fileno())]
    server = subprocess.Popen(
        [sys.executable, __file__, *words], pass_fds=[sock.fileno()], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        if server.stdout.readline() != "up\n":
            sys.exit("the server did not start")
        port = sock.getsockname()[1]
        calls = uvloop.run(load(port, args.streams, args.requests, args.tokens, arrival))
    finally:
        server.terminate()
        left = server.communicate()[0]
        sock.close()
    return {**figures(calls, args.streams), "server": json.loads(left.splitlines()[-1])}


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=whole, default=512)
    parser.add_argument("--requests", type=whole, default=2048)
    parser.add_argument("--tokens", type=whole, default=128, help="mean length of an answer")
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--arrival", nargs="+", choices=ARRIVALS, default=ARRIVALS, help="how the streams begin")
    parser.add_argument("--replicas", type=whole, default=1, help="engines that share the streams")
    parser.add_argument("--save", type=result_file, metavar="FILE")
    parser.add_argument("--serve-fd", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_fd is not None:
        serve(args.serve_fd, args.streams, args.step_ms / 1e3, args.replicas)
        return
    result: dict[str, Any] = {"about": about(), "streams": args.streams, "step_ms": args.step_ms, "wanted": WANTED}
    result["replicas"] = args.replicas
    result["arrivals"] = {arrival: measure(args, arrival) for arrival in args.arrival}
    print(json.dumps(result, indent=1))
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
