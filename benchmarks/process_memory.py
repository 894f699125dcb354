"""What memory the processes of `weft serve` hold while they start, once they are ready, and after many streams.

    python benchmarks/process_memory.py [--model MODEL] [--streams 32] [--rounds 3] [--save FILE.json]

Rounds go through a server of one rank and one of two. Of each process, MiB, medians: `file` (code and data of files:
`RssFile` of /proc/PID/status) at most during the start, when it is ready, and after streams of 128 tokens in and 128
out; `own` (`RssAnon`) and `shared` (`RssShmem`) after them; `most`, all of it at its highest (`VmHWM`). And what it
takes to let go of the code that a start ran through, in a process that imported what ranks do: milliseconds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about
from benchmarks.command import result_file, run_command, whole
from benchmarks.peers.process_tree import tree
from weft.bench.served import Served
from weft.cli.hosted import PROGRAM

PATIENCE_S = 600.0
OFTEN_S = 0.005
TOKENS = 128
KINDS = {"RssFile": "file", "RssAnon": "own", "RssShmem": "shared", "VmHWM": "most"}
LETTING_GO = (
    "from weft.launch.torch_import import import_torch; import_torch(); import weft.launch.rank, time;"
    "from weft.code_pages import leave_code; began = time.perf_counter(); leave_code();"
    "print(1000 * (time.perf_counter() - began))"
)

Held = dict[str, float]


def held(pid: int) -> Held:
    """MiB of a process, by kind; nothing of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = dict(re.findall(rf"^({'|'.join(KINDS)}):\s+(\d+) kB", status, re.MULTILINE))
    return {KINDS[name]: int(kib) / 1024 for name, kib in found.items()}


class Watched:
    """Looks at a server's processes again and again until it is told to stop: the most of files that each held."""

    def __init__(self, pid: int) -> None:
        self.most: dict[int, float] = defaultdict(float)
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(OFTEN_S):
            for pid in tree(self._pid):
                self.most[pid] = max(self.most[pid], held(pid).get("file", 0.0))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def names(pid: int) -> dict[int, str]:
    """The processes of a server that is ready: its front end, and its ranks in the order in which they were started."""
    ranks = [each for each in tree(pid) if b"weft.launch.worker" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return {pid: "front end"} | {each: f"rank {number}" for number, each in enumerate(sorted(ranks))}


def answer(url: str, streams: int) -> None:
    """Streams that begin together."""
    model = httpx.get(f"{url}/v1/models", timeout=PATIENCE_S).json()["data"][0]["id"]

    def one(number: int) -> None:
        asked = {"model": model, "prompt": [100 + number + k for k in range(TOKENS)], "max_tokens": TOKENS}
        asked |= {"ignore_eos": True}
        httpx.post(f"{url}/v1/completions", json=asked, timeout=PATIENCE_S).raise_for_status()

    with ThreadPoolExecutor(streams) as threads:
        list(threads.map(one, range(streams)))


def measure(model: str | None, ranks: int, streams: int) -> dict[str, Held]:
    """Of each process of one server."""
    words = ["serve", *([model] if model else []), "--tp", str(ranks), "--port", "0", "--max-num-seqs", str(streams)]
    words += ["--max-model-len", str(2 * TOKENS), "--no-enable-prefix-caching"]
    with Served(PROGRAM, words) as served:
        watched = Watched(served.pid)
        url = served.wait_ready()
        watched.stop()
        processes = names(served.pid)
        ready = {pid: held(pid) for pid in processes}
        answer(url, streams)
        after = {pid: held(pid) for pid in processes}
        return {
            name: {"file in the start": watched.most[pid], "file when ready": ready[pid]["file"], **after[pid]}
            for pid, name in processes.items()
        }


def letting_go_ms() -> float:
    """In a process of its own."""
    words = [sys.executable, "-c", LETTING_GO]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--streams", type=whole, default=32)
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument("--save", type=result_file)
    arguments = parser.parse_args()
    took: list[float] = []
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for _ in range(arguments.rounds):
        took.append(letting_go_ms())
        for ranks in (1, 2):
            for process, kinds in measure(arguments.model, ranks, arguments.streams).items():
                for kind, mib in kinds.items():
                    found[f"ranks: {ranks}"][process][kind].append(mib)
    servers = {
        name: {
            process: {kind: round(statistics.median(mib), 1) for kind, mib in kinds.items()}
            for process, kinds in processes.items()
        }
        for name, processes in found.items()
    }
    for name, processes in servers.items():
        for process, kinds in processes.items():
            print(f"{name}, {process}: " + ", ".join(f"{kind} {mib:.0f} MiB" for kind, mib in kinds.items()))
    print(f"to let go of code takes {statistics.median(took):.1f} ms")
    if arguments.save:
        result = {"about": about(), "rounds": arguments.rounds, "streams": arguments.streams}
        result |= {"letting_go_ms": round(statistics.median(took), 1), "mib": servers}
        arguments.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
