"""CPU time of the engine's own part of a step, in microseconds, at several numbers of running requests and contexts.

    python benchmarks/scheduler_cost.py [--save FILE]

The executor answers at once and its time is taken off. Prints one line per case; `--save` writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from about import about

from weft.engine.engine import Engine
from weft.settings import EngineConfig
from weft.step.plan import Sampled, StepPlan, StepResult
from weft.step.sampling_params import SamplingParams

BLOCK_SIZE = 16
STEPS = 64


class Instant:
    """An executor of one group that samples token 7 at once and adds up the time it takes for that."""

    def __init__(self, num_blocks: int) -> None:
        self.layout: Any = SimpleNamespace(attention=SimpleNamespace(dp=1))
        self.num_blocks = num_blocks
        self.seconds = 0.0

    def step(self, plan: StepPlan) -> StepResult:
        start = time.thread_time()
        groups = [[Sampled(run.slot, 7) for run in group.runs if run.sample] for group in plan.groups]
        self.seconds += time.thread_time() - start
        return StepResult(plan.index, groups)

    def close(self) -> None:
        """Nothing to end."""


def measure(running: int, context: int) -> dict[str, float | int]:
    """Admits `running` requests with `context` prompt tokens, then times decode steps."""
    blocks = running * ((context + 4 * STEPS) // BLOCK_SIZE + 2)
    config = EngineConfig(
        max_model_len=context + 4 * STEPS,
        max_num_seqs=running,
        max_num_batched_tokens=max(8192, running),
        block_size=BLOCK_SIZE,
    )
    executor = Instant(blocks)
    engine = Engine(executor, config, ())
    params = SamplingParams(max_tokens=4 * STEPS, temperature=0.0)
    start = time.thread_time()
    for number in range(running):
        engine.add_request(f"r{number}", [number, *range(context - 1)], params)
    added = time.thread_time() - start
    prefills = [timed_step(engine, executor)]
    while (stats := engine.stats().total).generated_tokens < running or stats.running < running:
        prefills.append(timed_step(engine, executor))
    steps = [timed_step(engine, executor) for _ in range(STEPS)]
    return {
        "running": running,
        "context": context,
        "decode_step_us_median": round(statistics.median(steps) * 1e6, 1),
        "decode_step_us_p90": round(sorted(steps)[int(0.9 * STEPS)] * 1e6, 1),
        "decode_row_us": round(statistics.median(steps) / running * 1e6, 2),
        "add_request_us": round(added / running * 1e6, 1),
        "prefill_step_us_per_1000_tokens": round(sum(prefills) / (running * context) * 1e9, 1),
    }


def timed_step(engine: Engine, executor: Instant) -> float:
    """CPU seconds that one step spends outside the executor."""
    executor.seconds, start = 0.0, time.thread_time()
    engine.step()
    return time.thread_time() - start - executor.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write the cases to this JSON file")
    arguments = parser.parse_args()
    cases = []
    for running, context in ((1, 128), (32, 128), (256, 128), (1024, 128), (32, 4096), (256, 4096)):
        cases.append(measure(running, context))
        print("  ".join(f"{name} {value}" for name, value in cases[-1].items()))
    if arguments.save:
        record = {
            "about": about(),
            "block_size": BLOCK_SIZE,
            "steps": STEPS,
            "cases": cases,
        }
        arguments.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
