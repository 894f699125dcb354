"""Where a step's time goes: each operation, collectives, sampling, Python between them, the scheduler.

    python benchmarks/step_profile.py [--model DIR] [--tp N] [--threads N] [--save FILE.json]

One stream, 8, 32 and a prefill of 1,024 tokens, through the real engine. One rank runs in this process and each of its
operations is timed. Several ranks (--tp) run in processes of their own, as when serving; of them are shown the time in
collectives, waiting for peers included, and in all else. Prints microseconds per step, medians; `--save` writes JSON
and, beside it, Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from about import about
from step_timers import CallTimers, StepTime, Timers, Timing, markdown, table

from weft.arch.families import parse_config
from weft.arch.shards import Shards
from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub import model_path
from weft.comm.lockstep import LockstepComm
from weft.engine.engine import Engine
from weft.launch.executor import ProcessExecutor
from weft.launch.lockstep_executor import LockstepExecutor
from weft.launch.plan import plan_launch
from weft.launch.report import RankReport
from weft.launch.start import Starting
from weft.layout.resolve import resolve
from weft.ops import Ops
from weft.ops.base import Numerics
from weft.settings import EngineConfig
from weft.step.plan import StepPlan, StepResult
from weft.step.sampling_params import SamplingParams
from weft.worker.runner import Limits, Runner

CASES = (("1 stream", 1, 128), ("8 streams", 8, 128), ("32 streams", 32, 128), ("prefill 1024", 1, 1024))
STEPS, WARM_UP = 32, 4
BLOCK_SIZE = 16
AT_START = {"describe", "prepare", "expert_weights", "check_batch_invariance"}
SAMPLING = ("sample", "remember")


def watch_runner(timers: CallTimers, runner: Runner) -> None:
    """Every operation of a rank, and its sampling. Products are named by their matrix."""
    names = {id(param): name.removeprefix("layers.").lstrip("0123456789.") for name, param in runner.params.items()}
    for method in sorted(Ops.__abstractmethods__ - AT_START):
        timers.watch(runner.ops, method, _label(method, names))
    for method in SAMPLING:
        timers.watch(runner.sampler, method, _label("sampling", {}))


def _label(method: str, names: dict[int, str]) -> Callable[[tuple[Any, ...]], str]:
    def label(args: tuple[Any, ...]) -> str:
        matrix = next((names[id(one)] for one in args if id(one) in names), None)
        return method if matrix is None else f"{method} {matrix.removesuffix('.weight')}"

    return label


class TimedExecutor:
    """The executor, and how long its steps took in seconds."""

    def __init__(self, executor: LockstepExecutor | ProcessExecutor) -> None:
        self._executor = executor
        self.layout, self.num_blocks = executor.layout, executor.num_blocks
        self.seconds = 0.0

    def step(self, plan: StepPlan) -> StepResult:
        """As the executor's."""
        began = time.perf_counter()
        result = self._executor.step(plan)
        self.seconds += time.perf_counter() - began
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def step_time(engine: Engine, executor: TimedExecutor, timers: Timers) -> StepTime:
    """Runs one step."""
    timers.take()
    executor.seconds, began = 0.0, time.perf_counter()
    engine.step()
    whole = time.perf_counter() - began
    operations: dict[str, tuple[float, int]] = {}
    for name, took in timers.take():
        before, calls = operations.get(name, (0.0, 0))
        operations[name] = (before + took, calls + 1)
    return StepTime(whole * 1e6, executor.seconds * 1e6, operations)


def _warm_up(runner: Runner, comm: LockstepComm) -> None:
    runner.warm_up()


class RankTimers:
    """Timers of ranks in processes of their own: what the busiest of them did, from the ranks' own counts."""

    def __init__(self, reports: Callable[[], list[RankReport]]) -> None:
        self._reports, self._before = reports, reports()

    def take(self) -> list[Timing]:
        """Two operations: collectives, and everything else."""
        before, now = self._before, self._reports()
        self._before = now
        spent = [(b.busy_s - a.busy_s, b.collective_s - a.collective_s) for a, b in zip(before, now, strict=True)]
        busy, collective = max(spent)
        if not busy:
            return []
        return [("collectives, busiest rank", 1e6 * collective), ("all else, busiest rank", 1e6 * (busy - collective))]


class Subject:
    """The engine of a model, ready to run. `close` ends its ranks."""

    def __init__(self, model: str | None, tp: int, dtype: str, threads: int) -> None:
        checkpoint = open_checkpoint(model_path(model))
        config = parse_config(checkpoint.config)
        shards = Shards(config, resolve({}, tp=tp, num_experts=config.num_experts))
        length = max(prompt for _, _, prompt in CASES) + STEPS + WARM_UP
        streams = max(count for _, count, _ in CASES)
        blocks = streams * (-(-length // BLOCK_SIZE) + 1)
        self.vocabulary = config.vocab_size
        self.settings = EngineConfig(
            dtype=dtype, max_model_len=length, max_num_seqs=streams, enable_prefix_caching=False, block_size=BLOCK_SIZE
        )
        self.executor: LockstepExecutor | ProcessExecutor
        if tp > 1:
            starting = Starting(plan_launch(checkpoint, shards.layout, self.settings, "auto", ()))
            self.executor = starting.wait()
            self.timers: Timers = RankTimers(starting.reports)
            self.kinds = [f"{tp} ranks: {starting.plan.backend}"]
            return
        torch.set_num_threads(threads)
        limits = Limits(blocks, BLOCK_SIZE, streams, length)
        numerics = Numerics(getattr(torch, dtype))
        self.executor = LockstepExecutor(checkpoint, shards, numerics, limits, torch.device("cpu"))
        self.executor.world.run([partial(_warm_up, runner) for runner in self.executor.runners])
        self.timers = CallTimers()
        self.kinds = [runner.ops.describe() for runner in self.executor.runners]

    def watch(self) -> None:
        """From now on single operations are timed."""
        if isinstance(self.executor, LockstepExecutor) and isinstance(self.timers, CallTimers):
            for runner in self.executor.runners:
                watch_runner(self.timers, runner)

    def run(self, streams: int, prompt: int) -> list[StepTime]:
        """The steps that count: decode steps of all streams together, or for a long prompt the steps that read it."""
        timed = TimedExecutor(self.executor)
        engine = Engine(timed, self.settings, ())
        decode = prompt <= 128
        rounds = 1 if decode else WARM_UP
        found: list[StepTime] = []
        for number in range(rounds):
            params = SamplingParams(max_tokens=STEPS + WARM_UP + 1 if decode else 1, temperature=0.0, ignore_eos=True)
            for stream in range(streams):
                ids = [(7919 * (stream + 1) + 31 * place) % self.vocabulary for place in range(prompt)]
                engine.add_request(f"{number}.{stream}", ids, params)
            while engine.has_work:
                found.append(step_time(engine, timed, self.timers))
        counted = [step for step in found if step.operations] or [step for step in found if step.ranks]
        return counted[-STEPS:] if decode else counted[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or .gguf (default: the embedded model)")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    subject = Subject(arguments.model, arguments.tp, arguments.dtype, arguments.threads)
    try:
        cases = measure(subject)
    finally:
        subject.executor.close()
    text = "\n\n".join(f"## {name}\n\n{markdown(rows)}" for name, rows in cases.items())
    print(text)
    if arguments.save:
        head = {"about": about(), "operations": subject.kinds, "tp": arguments.tp, "threads": arguments.threads}
        arguments.save.write_text(json.dumps({**head, "cases": cases}, indent=1) + "\n")
        arguments.save.with_suffix(".md").write_text(f"# Where a step's time goes\n\n`{subject.kinds}`\n\n{text}\n")


def measure(subject: Subject) -> dict[str, dict[str, dict[str, float]]]:
    """The table of every case; what timing costs shows in the step with nothing timed, which runs before."""
    plain = {name: subject.run(streams, prompt) for name, streams, prompt in CASES}
    subject.watch()
    cases = {}
    for name, streams, prompt in CASES:
        cases[name] = table(subject.run(streams, prompt))
        untimed = statistics.median(step.whole for step in plain[name])
        cases[name]["whole step, nothing timed"] = {"us": round(untimed, 1), "calls": 1, "share": 1.0}
    return cases


if __name__ == "__main__":
    main()
