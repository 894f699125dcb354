"""Two hosts with one rank each beside two ranks on one host, in turns; and collectives between two hosts.

    python benchmarks/two_hosts.py [--rounds 8] [--tokens 64] [--bytes 64 4096 65536 1048576] [--save FILE.json]

Hosts are namespaces with one core each (tests/support/namespaces.py), so this needs root. The other engine has the same
two cores. Tokens/s of 1 and 8 streams of the embedded model: offline (`weft.LLM`), and over HTTP
(`weft serve`, streams without a pause). `of_one_host` is the median of the rounds' ratios. Collectives: of two ranks, a
core each, as `comm_latency.py` measures them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, save_part, whole
from tests.support.namespaces import Host, hosts, why_not
from weft.base.errors import WeftError
from weft.compute.native.build import ensure_built

ROOT = Path(__file__).resolve().parents[1]
STREAMS = (8, 1)
MEMORY = 64 << 20
CONFIG = {"kv_cache_memory": MEMORY, "max_model_len": 512}
FLAGS = ("--kv-cache-memory", "64MiB", "--max-model-len", "512", "--served-model-name", "m")
Burst = Callable[[int, int], float]
"""Streams, tokens of each -> seconds."""


class Lines:
    """A process that talks in lines."""

    def __init__(self, words: Sequence[str], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environ}
        )

    def say(self, message: object) -> None:
        """One line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Its next line. WeftError: it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WeftError(f"a process of the measurement ended with code {self.process.wait()}")
        return line.strip()

    def burst(self, streams: int, tokens: int) -> float:
        """Of an engine."""
        self.say({"streams": streams, "tokens": tokens})
        return float(self.hear())

    def end(self) -> None:
        """Closes its stdin, and waits."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def helper(host: Host | None, *words: str) -> Lines:
    """`host_process` on a host, or with both cores."""
    within = [] if host is None else [*host.entered(), "taskset", "-c", str(host.core)]
    return Lines([*within, sys.executable, "-m", "benchmarks.common.host_process", *words], {"PYTHONPATH": str(ROOT)})


def meeting_of(found: list[Host], folder: Path) -> dict[str, str]:
    """Where the hosts meet, as options have it."""
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text("benchmark")
    return {"dist_init_addr": f"{found[0].address}:25000", "dist_secret_file": str(secret)}


def as_flags(meeting: dict[str, str], number: int) -> list[str]:
    """The words of `weft serve` on a host."""
    words = [word for name, value in meeting.items() for word in ("--" + name.replace("_", "-"), value)]
    return ["--tp", "2", "--nnodes", "2", "--node-rank", str(number), *words, *FLAGS]


def in_turns(ways: dict[str, Burst], rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Each number of streams, the ways in turns, the first one first in every other round."""
    found = []
    for streams in STREAMS:
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for burst in ways.values():
            burst(streams, tokens)
        for number in range(rounds):
            for name in sorted(ways, reverse=number % 2 == 1):
                rates[name].append(streams * tokens / ways[name](streams, tokens))
        ratios = [two / one for two, one in zip(rates["two_hosts"], rates["one_host"], strict=True)]
        middles = {name: round(statistics.median(each), 1) for name, each in rates.items()}
        found.append({"streams": streams, **middles, "of_one_host": round(statistics.median(ratios), 3)})
        print(f"{streams} streams: {middles}, {found[-1]['of_one_host']} of one host", flush=True)
    return found


def offline(found: list[Host], folder: Path, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """`weft.LLM`."""
    meeting = meeting_of(found, folder)
    agent = found[1].weft("serve", *as_flags(meeting, 1))
    across = helper(found[0], "engine", json.dumps({"meeting": meeting, "config": CONFIG}))
    alone = helper(None, "engine", json.dumps({"config": CONFIG}))
    for each in (across, alone):
        while each.hear() != "ready":
            continue
    cases = in_turns({"two_hosts": across.burst, "one_host": alone.burst}, rounds, tokens)
    across.end()
    alone.end()
    agent.end()
    return cases


def over_http(found: list[Host], folder: Path, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """`weft serve`."""
    meeting = meeting_of(found, folder)
    servers = [host.weft("serve", *as_flags(meeting, host.number), *_uds(folder, host.number)) for host in found]
    words = [sys.executable, "-m", "weft.cli.main", "serve", "--tp", "2", *FLAGS, *_uds(folder, 2)]
    alone = Lines(words, {"PYTHONUNBUFFERED": "1"})
    servers[0].says("^ready on", 120)
    while not alone.hear().startswith("ready on"):
        continue
    with ExitStack() as closing:
        ways = {
            name: closing.enter_context(_Clients(folder / f"sock{number}")).burst
            for name, number in (("two_hosts", 0), ("one_host", 2))
        }
        cases = in_turns(ways, rounds, tokens)
    alone.process.terminate()
    alone.end()
    servers[0].send(15)
    for server in servers:
        server.end()
    return cases


def _uds(folder: Path, number: int) -> list[str]:
    return ["--uds", str(folder / f"sock{number}")] if number != 1 else []


class _Clients:
    """Of one server, a thread for each stream."""

    def __init__(self, sock: Path) -> None:
        self._pool = ThreadPoolExecutor(max(STREAMS))
        self._client = httpx.Client(transport=httpx.HTTPTransport(uds=str(sock)), base_url="http://m", timeout=120)

    def burst(self, streams: int, tokens: int) -> float:
        """All at once."""
        began = time.perf_counter()
        list(self._pool.map(lambda number: self._ask(number, tokens), range(streams)))
        return time.perf_counter() - began

    def _ask(self, number: int, tokens: int) -> None:
        prompt = f"Story {number}: once upon a time"
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        if self._client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] != tokens:
            raise WeftError("an answer is too short")

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._pool.shutdown()


def collectives(found: list[Host], sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Of two ranks, one on each host."""
    ranks = [helper(host, "rank", str(host.number), host.address) for host in found]
    peers = {number: where for each in ranks for number, where in json.loads(each.hear()).items()}
    for each in ranks:
        each.say({"peers": peers, "bytes": list(sizes), "rounds": rounds})
    cases: list[dict[str, Any]] = json.loads(ranks[0].hear())
    for each in ranks:
        each.end()
    for case in cases:
        print(f"{case['kind']} of {case['bytes']} bytes: p50 {case['tcp']['p50_us']} us", flush=True)
    return cases


def main() -> None:
    """Runs, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=8)
    parser.add_argument("--tokens", type=whole, default=64)
    parser.add_argument("--bytes", type=whole, nargs="+", default=[64, 4096, 65536, 1 << 20])
    parser.add_argument("--save", type=result_file, metavar="FILE")
    args = parser.parse_args()
    if reason := why_not():
        sys.exit(f"hosts are namespaces, which this system refuses: {reason}")
    ensure_built()
    with tempfile.TemporaryDirectory() as name, hosts(Path(name)) as found:
        folder = Path(name)
        times = collectives(found, args.bytes, 3)
        rates = {
            "offline": offline(found, folder, args.rounds, args.tokens),
            "http": over_http(found, folder, args.rounds, args.tokens),
        }
    if args.save:
        save_part(args.save, "collectives", {"about": about(), "ranks_per_host": 1, "cases": times})
        save_part(args.save, "tokens_per_s", {"about": about(), "rounds": args.rounds, "tokens": args.tokens, **rates})


if __name__ == "__main__":
    run_command(main)
