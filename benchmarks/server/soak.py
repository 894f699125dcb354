"""Mixed requests against a served model for some minutes, then a count: nothing lost, nothing left.

    python benchmarks/server/soak.py [--minutes 10] [--rate 17] [--model MODEL|embedded] [--tp N] [--save FILE]

A fifth of the requests is cancelled by the client, a tenth is wrong, one in fifty is read slowly; the rest are chats
and texts with several answers, log-probabilities and penalties. Without --model a small random model is served.
Afterwards every request that the server accepted must have completed, failed or been cancelled, and memory, descriptors
and KV blocks must be what they were after the warm-up. In the second half memory may not grow with the requests. Texts
come from a pool, because the tokenizer library keeps up to 10,000 words that it has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tests write the small model

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common.about import about
from benchmarks.common.command import positive, result_file, run_command, whole
from tests.support.tiny_chat import write_tiny_chat

AT_ONCE = 64
PATIENCE_S = 120.0
LEVEL_MIB = 4.0
"""By which a process may be larger at the end than half-way."""
WRONG: tuple[dict[str, Any], ...] = (
    {"prompt": "x", "temperature": -1},
    {"prompt": "x", "n": 10**9},
    {"prompt": [10**9]},
    {"prompt": "x" * 10**6},
    {"prompt": "x", "model": "no such model"},
    {"prompt": "x", "max_tokens": 10**12},
    {"prompt": "x", "temperatur": 1},
    {"prompt": []},
    {"messages": "x"},
    {"prompt": "x", "logit_bias": {"a": 1}},
)
TEXTS = 400
WORDS = "the sea is grey and far away from here where nobody ever comes to look at it again".split()


@dataclass
class Ledger:
    """What became of the requests, as the clients saw it."""

    sent: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Answers that no client should get."""


class Soak:
    """Clients of one server."""

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._draw = port, random.Random(seed)
        self._texts = [" ".join(self._draw.choices(WORDS, k=self._draw.randint(1, 24))) for _ in range(TEXTS)]
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.ledger = Ledger()

    async def request(self) -> None:
        """One, of a kind drawn by chance."""
        share = self._draw.random()
        kind = "cancelled" if share < 0.2 else "bad" if share < 0.3 else "slow" if share < 0.32 else "plain"
        self.ledger.sent[kind] += 1
        async with self._gate:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    fate = await self._call(kind, self._body(kind))
            except (TimeoutError, OSError) as error:
                fate = f"lost: {type(error).__name__}"
        self.ledger.seen[f"{kind}: {fate}"] += 1
        if fate not in EXPECTED[kind]:
            self.ledger.wrong.append(f"{kind}: {fate}")

    def _body(self, kind: str) -> dict[str, Any]:
        draw = self._draw
        if kind == "bad":
            return draw.choice(WRONG)
        text = draw.choice(self._texts)
        chat = draw.random() < 0.5
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        asked |= {"max_tokens": draw.randint(1, 24), "stream": draw.random() < 0.6, "n": draw.choice((1, 1, 1, 2, 3))}
        if draw.random() < 0.2:
            asked |= {"logprobs": True, "top_logprobs": 3} if chat else {"logprobs": 3}
        if draw.random() < 0.2:
            asked |= {"presence_penalty": 0.5, "repetition_penalty": 1.1, "top_p": 0.9}
        if kind in ("slow", "cancelled"):
            asked |= {"max_tokens": 80, "ignore_eos": True}
        return asked | ({"stream": True, "n": 4} if kind == "slow" else {})

    async def _call(self, kind: str, asked: dict[str, Any]) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**16)
        try:
            body = json.dumps(asked).encode()
            path = b"/v1/chat/completions" if "messages" in asked else b"/v1/completions"
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            writer.write(head % path + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            if kind == "cancelled":
                await asyncio.sleep(self._draw.random() * 0.2)
                return "left"
            whole = b""
            while part := await reader.read(1024 if kind == "slow" else 2**16):
                whole += part
                if kind == "slow":
                    await asyncio.sleep(0.02)
            return _fate(whole, stream=bool(asked.get("stream")))
        finally:
            writer.close()


def _fate(answer: bytes, *, stream: bool) -> str:
    status = answer[9:12].decode()
    if status == "200" and stream and b"data: [DONE]\n\n" not in answer:
        return "cut"
    return status


EXPECTED = {"plain": {"200"}, "slow": {"200"}, "bad": {"400", "404"}, "cancelled": {"left"}}


def get(port: int, path: str) -> str:
    """Body of a GET."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def counts(port: int) -> dict[str, float]:
    """Of /metrics: sums over labels; failures by status."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(get(port, "/metrics")):
        for sample in family.samples:
            found[sample.name] += sample.value
            if sample.name == "weft:requests_failed_total":
                found["cancelled" if sample.labels["status"] == "499" else "failed"] += sample.value
    return dict(found)


def held(pids: list[int]) -> dict[str, Any]:
    """Memory and descriptors of the server's processes."""
    rss = [re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return {
        "rss_mib": [round(int(one[1]) / 1024, 1) for one in rss if one],
        "descriptors": [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids],
    }


class Watched:
    """Memory of the server's processes all along: one record a minute, of a shorter run more often."""

    def __init__(self, pids: list[int], every_s: float, ledger: Ledger) -> None:
        self._pids, self._every_s, self._ledger = pids, every_s, ledger
        self._began = time.monotonic()
        self.series: list[dict[str, Any]] = []

    def note(self) -> None:
        """A record."""
        seconds, requests = round(time.monotonic() - self._began, 1), sum(self._ledger.seen.values())
        self.series.append({"seconds": seconds, "requests": requests, "rss_mib": held(self._pids)["rss_mib"]})

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.note()
            await asyncio.sleep(self._every_s)

    def growth(self) -> list[float]:
        """MiB that each process grew by in the second half."""
        middle, last = self.series[len(self.series) // 2]["rss_mib"], self.series[-1]["rss_mib"]
        return [round(b - a, 1) for a, b in zip(middle, last, strict=True)]


async def idle(port: int) -> dict[str, float]:
    """Waits until nothing runs any more, then the counts."""
    for _ in range(200):
        now = await asyncio.to_thread(counts, port)
        if now["vllm:num_requests_running"] == now["vllm:num_requests_waiting"] == 0 and _open(now) == 0:
            return now
        await asyncio.sleep(0.2)
    return now


def _open(now: dict[str, float]) -> float:
    ended = now["weft:requests_completed_total"] + now.get("failed", 0) + now.get("cancelled", 0)
    return now["weft:requests_accepted_total"] - ended


async def soak(port: int, pids: list[int], minutes: float, rate: float, seed: int, warm_up: int) -> dict[str, Any]:
    """The whole run; `ok` says whether everything added up."""
    warm = Soak(port, seed + 1)
    await asyncio.gather(*(warm.request() for _ in range(warm_up)))
    first = await idle(port)
    before = held(pids)
    run, tasks, began = Soak(port, seed), set[asyncio.Task[None]](), time.monotonic()
    watched = Watched(pids, min(60.0, 6 * minutes), run.ledger)
    watching = asyncio.create_task(watched.run())
    while (passed := time.monotonic() - began) < 60 * minutes:
        while sum(run.ledger.sent.values()) + len(tasks) < rate * passed and len(tasks) < 4 * AT_ONCE:
            task = asyncio.create_task(run.request())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
    await asyncio.gather(*tasks)
    watching.cancel()
    seconds = time.monotonic() - began
    last = await idle(port)
    watched.note()
    after = held(pids)
    ledger = {
        name: int(last.get(key, 0) - first.get(key, 0))
        for name, key in (
            ("accepted", "weft:requests_accepted_total"),
            ("completed", "weft:requests_completed_total"),
            ("failed", "failed"),
            ("cancelled", "cancelled"),
        )
    }
    checks = {
        "ledger": _open(last) == 0,
        "answers": not run.ledger.wrong and ledger["failed"] == 0,
        "kv_blocks": last["vllm:kv_cache_usage_perc"] == 0,
        "descriptors": all(b <= a + 2 for a, b in zip(before["descriptors"], after["descriptors"], strict=True)),
        "memory": all(b <= 1.1 * a + 16 for a, b in zip(before["rss_mib"], after["rss_mib"], strict=True)),
        "memory_level": all(grown <= LEVEL_MIB for grown in watched.growth()),
    }
    return {
        "requests": sum(run.ledger.sent.values()),
        "seconds": round(seconds, 1),
        "sent": dict(run.ledger.sent),
        "seen": dict(run.ledger.seen),
        "ledger": ledger,
        "before": before,
        "after": after,
        "grown_in_second_half_mib": watched.growth(),
        "series": watched.series,
        "checks": checks,
        "wrong": run.ledger.wrong[:20],
        "ok": all(checks.values()),
    }


def main() -> None:
    """Serves, soaks, prints, saves; exit code 1 where something did not add up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=positive, default=10.0)
    parser.add_argument("--rate", type=positive, default=17.0, help="requests per second")
    parser.add_argument("--model", help="what `weft serve` takes, or `embedded`; left out: a small random model")
    parser.add_argument("--warm-up", type=int, default=200, metavar="N", help="requests that are not counted")
    parser.add_argument("--kv-cache-memory", metavar="SIZE", help="small, so that the warm-up touches all of it")
    parser.add_argument("--tp", type=whole, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=result_file, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = [args.model or str(write_tiny_chat(Path(folder) / "tiny"))]
        words = ["serve", *model * (args.model != "embedded"), "--port", "0", "--tp", str(args.tp)]
        words += ["--kv-cache-memory", args.kv_cache_memory] if args.kv_cache_memory else []
        server = subprocess.Popen(
            [sys.executable, "-m", "weft.cli.main", *words, "--max-num-seqs", "32"],
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert server.stdout is not None
        try:
            ready = (re.search(r"ready on http://\S+:(\d+)", line) for line in server.stdout)
            port = next(int(found[1]) for found in ready if found)
            pids = [server.pid, *(rank["pid"] for rank in json.loads(get(port, "/ready"))["ranks"])]
            served = json.loads(get(port, "/v1/models"))["data"][0]
            result = asyncio.run(soak(port, pids, args.minutes, args.rate, args.seed, args.warm_up))
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
    which = {"given": args.model or "random", "served": served["id"], "context": served["max_model_len"], "tp": args.tp}
    result = {"about": about(), "model": which, "exit_code": server.returncode, **result}
    print(json.dumps(result, indent=1))
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if result["ok"] and server.returncode == 0 else 1)


if __name__ == "__main__":
    run_command(main)
