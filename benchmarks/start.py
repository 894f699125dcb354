"""The start of `weft serve`: from the command to the first token over HTTP, and what takes the time. Files are cached.

    python benchmarks/start.py [--model MODEL] [--rounds 7] [--save FILE]

Rounds go through: `import torch` alone, whole and as a rank imports it; a rank's own modules after it; a server of one
rank; a server of two. Medians, seconds. A server's phases are those that it reports, by the time they are read;
of several ranks the last one's count.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole
from weft.cli.hosted import PROGRAM
from weft.tools.bench.served import Served

PATIENCE_S = 120.0
IMPORTS = {
    "import torch": "import torch",
    "import torch and a rank's modules": "import weft.runtime.worker.rank",
}
PHASE = re.compile(r"\[[ \d.]+ s\] rank \d+ (?:\([^)]*\) )?([a-z-]+)")


def import_s(code: str) -> float:
    """Of a fresh interpreter, less what it takes to start one."""
    timed = f"import gc, time; gc.disable(); began = time.perf_counter(); {code}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def started(model: str | None, ranks: int) -> dict[str, float]:
    """Seconds after the command until each phase and until the first token."""
    times: dict[str, float] = {}

    def hear(line: str) -> None:
        if phase := PHASE.match(line):
            times[phase[1]] = time.perf_counter() - began

    words = ["serve", *([model] if model else []), "--tp", str(ranks), "--port", "0", "--log-level", "debug"]
    began = time.perf_counter()
    with Served(PROGRAM, words, hear) as served:
        url = served.wait_ready()
        body = json.dumps({"prompt": "The sea", "max_tokens": 1, "temperature": 0}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            answer.read()
        return times | {"first token": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=whole, default=7)
    parser.add_argument("--save", type=result_file)
    arguments = parser.parse_args()
    imports: dict[str, list[float]] = defaultdict(list)
    starts: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(arguments.rounds + 1):
        for name, code in IMPORTS.items():
            imports[name].append(import_s(code))
        for ranks in (1, 2):
            for phase, second in started(arguments.model, ranks).items():
                starts[f"ranks: {ranks}"][phase].append(second)
        if number == 0:  # files come into the cache
            imports.clear()
            starts.clear()
    found = {
        "imports_s": {name: _of(taken) for name, taken in imports.items()},
        "after_the_command_s": {
            name: {phase: _of(taken) for phase, taken in phases.items()} for name, phases in starts.items()
        },
    }
    for name, taken in found["imports_s"].items():
        print(f"{name}: {taken['median']:.2f} s")
    for name, phases in found["after_the_command_s"].items():
        print(f"{name}: " + ", ".join(f"{phase} {taken['median']:.2f} s" for phase, taken in phases.items()))
    if arguments.save:
        result = {"about": about(), "rounds": arguments.rounds, **found}
        arguments.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _of(taken: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(taken), 2), "least": round(min(taken), 2), "most": round(max(taken), 2)}


if __name__ == "__main__":
    run_command(main)
