"""What it brings that a rank's threads steal each other's work: steps with and without it, in turns.

    python benchmarks/work_stealing.py [--model DIR] [--quantization Q [--activations full|int8]] [--busy 25]
                                       [--rounds 3] [--save FILE.json]

One rank in this process, a thread on every core. Every other step runs without stealing, so that what else the machine
does meets both; of neighbours the ratio is taken, and of the ratios median and quartiles. Once by itself, and once
beside a process that keeps the last core busy for `--busy` percent of the time, a millisecond at a stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import about
from benchmarks.command import result_file, run_command, whole
from benchmarks.step_profile import CASES, SHORT, Subject
from benchmarks.step_subject import OneRank
from benchmarks.timing import ratios_beside
from weft.experts.statistics.loads import IntArray
from weft.ops.step_ops import StepOps
from weft.step.plan import StepPlan, StepResult

BUSY = """
import os, sys, time
core, share, parent = int(sys.argv[1]), float(sys.argv[2]) / 100, int(sys.argv[3])
os.sched_setaffinity(0, [core])
while os.getppid() == parent:
    until = time.perf_counter() + 1e-3
    while time.perf_counter() < until: pass
    time.sleep(1e-3 * (1 - share) / share)
"""


class Alternating:
    """The executor, whose threads steal in every other step."""

    def __init__(self, one: OneRank) -> None:
        if not isinstance(one.runner.ops, StepOps):
            sys.exit(f"no threads of weft's own: {one.runner.ops.describe()}")
        self._one, self._pool = one, one.runner.ops.pool
        self.layout, self.num_blocks = one.layout, one.num_blocks
        self.stole = False

    def step(self, plan: StepPlan) -> StepResult:
        """As the executor's."""
        self.stole = not self.stole
        self._pool.steal(self.stole)
        return self._one.step(plan)

    def expert_counts(self) -> IntArray:
        """As the executor's."""
        return self._one.expert_counts()

    def close(self) -> None:
        """As the executor's."""
        self._one.close()


@contextmanager
def busy_core(percent: float) -> Iterator[None]:
    """The last core is somebody else's for that share of the time."""
    if not percent:
        yield
        return
    words = [str(max(os.sched_getaffinity(os.getppid()))), str(percent), str(os.getpid())]
    process = subprocess.Popen([sys.executable, "-c", BUSY, *words])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(subject: Subject, executor: Alternating, streams: int, prompt: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a step without stealing and with it, medians, and the ratio's quartiles."""
    plain: list[float] = []
    stolen: list[float] = []
    for _ in range(rounds if prompt <= SHORT else 4 * rounds):
        times = [step.ranks for step in subject.run(streams, prompt)]
        times = times[len(times) % 2 :]
        first, second = times[0::2], times[1::2]
        plain += first if executor.stole else second
        stolen += second if executor.stole else first
    return {
        "plain_ms": round(statistics.median(plain) / 1e3, 3),
        "stealing_ms": round(statistics.median(stolen) / 1e3, 3),
        **ratios_beside(plain, stolen),
        "pairs": len(plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or .gguf (default: the embedded model)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--quantization", default="none", choices=("none", "int8", "int4"))
    parser.add_argument("--activations", default="auto", choices=("auto", "full", "int8"))
    parser.add_argument("--busy", type=float, default=25.0, metavar="PERCENT")
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    if threads < 2:
        sys.exit("one core: there is nobody to steal from")
    subject = Subject(arguments.model, 1, threads, vars(arguments))
    assert subject.one is not None
    subject.executor = executor = Alternating(subject.one)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for percent in (0.0, arguments.busy):
        with busy_core(percent):
            title = f"last core busy for {percent:g} %" if percent else "by itself"
            found[title] = {
                name: measure(subject, executor, streams, prompt, arguments.rounds) for name, streams, prompt in CASES
            }
            for name, one in found[title].items():
                print(f"{title}, {name}: {one}", flush=True)
    executor.close()
    if arguments.save:
        head = {"about": about(), "threads": threads, "quantization": arguments.quantization}
        record = {**head, "activations": arguments.activations, "busy_percent": arguments.busy, "cases": found}
        arguments.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
