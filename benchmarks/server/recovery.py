"""Faults of processes, timed: how soon they are noticed, reported and over, with the embedded model on two ranks.

    python benchmarks/server/recovery.py [--times 5] [--model MODEL] [--save FILE]

Each fault happens several times; the longest time counts against its bound. Seconds, as a client and the shell that
started the server see them. A stream runs through each fault that says so.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole

PATIENCE_S = 240.0
STEP_LIMIT_S = 5.0
DRAIN_S = 1.0
POLL_S = 0.005
BOUNDS = {
    "rank killed while idle: noticed": 1.0,
    "rank killed while idle: ready again": 15.0,
    "rank killed under a stream: error frame": 2.0,
    "rank killed under a stream: ready again": 15.0,
    "rank aborts under a stream: error frame": 2.0,
    "rank suspended, step limit 5 s: error frame": STEP_LIMIT_S + 2.0,
    "server killed: every rank gone": 1.0,
    "SIGTERM while idle: ended": 2.0,
    "SIGTERM under a stream, drain limit 1 s: ended": DRAIN_S + 2.0,
    "second signal under a stream: ended": 2.0,
    "SIGTERM while loading: ended": 2.0,
    "port in use: refused": 1.0,
}
"""Seconds."""
BODY = {"max_tokens": 7000, "ignore_eos": True, "stream": True}


class Server:
    """`weft serve` on a free port. Every stream asks for something else: what ends ranks twice is not run again."""

    def __init__(self, model: str | None, *words: str) -> None:
        command = [sys.executable, "-m", "weft.cli.main", "serve", *([model] if model else []), "--tp", "2"]
        limits = ["--step-limit", str(STEP_LIMIT_S), "--drain-timeout", str(DRAIN_S)]
        port = [] if "--port" in words else ["--port", "0"]
        self.process = subprocess.Popen(
            [*command, *limits, *port, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.port, self.phases, self.text, self._streams = 0, threading.Event(), "", 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if line.startswith("ready on "):
                self.port = int(line.partition(";")[0].rpartition(":")[2])
            if " load" in line:
                self.phases.set()

    def ready(self) -> dict[str, Any]:
        """The body of /ready, with its status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body: dict[str, Any] = json.loads(answer.read())
        connection.close()
        return body | {"code": answer.status}

    def wait_ready(self, restarts: int = 0) -> None:
        """Until it is, after so many restarts."""
        wait(lambda: self.port or self.process.poll() is not None)
        if self.process.poll() is not None:
            sys.exit(self.text)
        wait(lambda: (now := self.ready())["code"] == 200 and now["restarts"] == restarts)

    def ranks(self) -> list[int]:
        """Their pids."""
        return [rank["pid"] for rank in self.ready()["ranks"]]

    def stream(self) -> http.client.HTTPResponse:
        """An answer of which the first token has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        self._streams += 1
        body = json.dumps(BODY | {"prompt": f"The sea, for the {self._streams}th time"})
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.readline()
        return answer

    def end(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


def wait(condition: Callable[[], object]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("it did not happen")
        time.sleep(POLL_S)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def rest(stream: http.client.HTTPResponse) -> bytes:
    """What comes before it is cut off."""
    data = b""
    try:
        while line := stream.readline():
            data = line if line.strip() else data
    except (http.client.HTTPException, ConnectionError):
        pass
    if b'"error"' not in data:
        sys.exit(f"a stream ended with {data!r}")
    return data


class Times:
    """Seconds of each fault."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {name: [] for name in BOUNDS}
        self._began = 0.0

    def begin(self) -> None:
        """Now."""
        self._began = time.monotonic()

    def took(self, name: str) -> None:
        """Until now."""
        self.of[name].append(time.monotonic() - self._began)


def ranks_die(model: str | None, times: Times, count: int) -> None:
    """Faults after which the server goes on. Each waits longer to restart than the one before, unless time passes."""
    for number in range(count):
        server = Server(model)
        server.wait_ready()
        times.begin()
        os.kill(server.ranks()[number % 2], signal.SIGKILL)
        wait(lambda: server.ready()["code"] != 200)  # noqa: B023
        times.took("rank killed while idle: noticed")
        server.wait_ready(1)
        times.took("rank killed while idle: ready again")
        for restarts, (fault, name) in enumerate(UNDER_STREAMS, 2):
            stream, victim = server.stream(), server.ranks()[number % 2]
            times.begin()
            os.kill(victim, fault)
            rest(stream)
            times.took(f"{name}: error frame")
            server.wait_ready(restarts)
            if f"{name}: ready again" in BOUNDS:
                times.took(f"{name}: ready again")
        server.end()


UNDER_STREAMS = (
    (signal.SIGKILL, "rank killed under a stream"),
    (signal.SIGABRT, "rank aborts under a stream"),
    (signal.SIGSTOP, "rank suspended, step limit 5 s"),
)


def servers_end(model: str | None, times: Times) -> None:
    """Ends of a server, each of its own one."""
    for name, signals, streaming in ENDS:
        server = Server(model)
        if "loading" in name:
            server.phases.wait(PATIENCE_S)
        else:
            server.wait_ready()
        ranks = [] if "loading" in name else server.ranks()
        stream = server.stream() if streaming else None
        times.begin()
        for number in signals:
            server.process.send_signal(number)
            time.sleep(0.05 if len(signals) > 1 else 0)
        server.process.wait(PATIENCE_S)
        wait(lambda: not any(map(alive, ranks)))  # noqa: B023
        times.took(name)
        if stream is not None:
            rest(stream)
        server.end()


ENDS = (
    ("server killed: every rank gone", (signal.SIGKILL,), False),
    ("SIGTERM while idle: ended", (signal.SIGTERM,), False),
    ("SIGTERM under a stream, drain limit 1 s: ended", (signal.SIGTERM,), True),
    ("second signal under a stream: ended", (signal.SIGTERM, signal.SIGINT), True),
    ("SIGTERM while loading: ended", (signal.SIGTERM,), False),
)


def ports_in_use(model: str | None, times: Times, count: int) -> None:
    """A server that stands in the way, and others that are refused: from the shell, with Python's own start."""
    server = Server(model)
    server.wait_ready()
    for _ in range(count):
        times.begin()
        other = Server(model, "--port", str(server.port))
        code = other.process.wait(PATIENCE_S)
        times.took("port in use: refused")
        if code != 78:
            sys.exit(f"exit code {code}: {other.text}")
    server.end()


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=whole, default=5)
    parser.add_argument("--model", help="default: the embedded model")
    parser.add_argument("--save", type=result_file, metavar="FILE")
    args = parser.parse_args()
    times = Times()
    ranks_die(args.model, times, args.times)
    for _ in range(args.times):
        servers_end(args.model, times)
    ports_in_use(args.model, times, args.times)
    found = {
        name: {"longest_s": round(max(seconds), 3), "bound_s": BOUNDS[name], "met": max(seconds) <= BOUNDS[name]}
        for name, seconds in times.of.items()
    }
    for name, line in found.items():
        print(f"{line['longest_s']:8.3f} s of {line['bound_s']:4g}  {'' if line['met'] else 'MISSED '}{name}")
    if args.save:
        args.save.write_text(json.dumps({"about": about(), "times": args.times, "faults": found}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
