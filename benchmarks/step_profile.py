"""Where a step's time goes: each instruction, collectives, sampling, Python between them, the scheduler.

    python benchmarks/step_profile.py [--model DIR] [--tp N] [--threads N] [--quantization Q [--activations full|int8]]
                                       [--save FILE.json]

One stream, 8, 32 and a prefill of 1,024 tokens, through the real engine. One rank runs in this process: of its step
program every instruction is timed (of a model without one, every operation), with the bytes of weights and cache that
it reads and what that makes in GB/s, beside the bandwidth that the machine gave. Several ranks (--tp) run in processes
of their own, as when serving, and each has a table of its own; collectives are instructions too, and their time is also
what a rank waits for the others; between them stands also what noting the times takes. Prints microseconds per step,
medians; `--save` writes JSON and, beside it, Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, whole
from benchmarks.common.step_subject import OneRank
from benchmarks.common.step_timers import CallTimers, StepTime, Timers, Timing, markdown, table
from benchmarks.common.timed_rank import PLACE, times_of
from benchmarks.peers.probe import Probe
from weft.base.settings import EngineConfig
from weft.base.step.plan import StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.engine import Engine
from weft.engine.core.executor import Executor
from weft.model.checkpoint import open_checkpoint
from weft.model.checkpoint.hub.paths import model_path
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.resolve import resolve
from weft.runtime.launch_plan.plan import plan_launch
from weft.runtime.supervisor.processes import Spawner
from weft.runtime.supervisor.start import Starting

CASES = (("1 stream", 1, 128), ("8 streams", 8, 128), ("32 streams", 32, 128), ("prefill 1024", 1, 1024))
STEPS, WARM_UP = 64, 4
SHORT = 128
"""Prompts up to here are there for the decode steps that follow."""
BLOCK_SIZE = 16
CACHE = Path.home() / ".cache" / "weft"


class TimedExecutor:
    """The executor, and how long its steps took in seconds."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.layout, self.num_blocks = executor.layout, executor.num_blocks
        self.seconds = 0.0

    def step(self, plan: StepPlan) -> StepResult:
        """As the executor's."""
        began = time.perf_counter()
        result = self._executor.step(plan)
        self.seconds += time.perf_counter() - began
        return result

    def expert_counts(self) -> IntArray:
        """As the executor's."""
        return self._executor.expert_counts()

    def close(self) -> None:
        """Leaves the executor to its owner."""


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


class RankTimers:
    """Timers of ranks in processes of their own (`timed_rank.py`), whose operations have the rank before their name."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._files = [times_of(pid).open() for pid in pids]
        self._begun = [""] * len(pids)
        self._labels: list[list[str]] = [[] for _ in pids]

    def take(self) -> list[Timing]:
        """What ran since the last call, of all ranks; waits for those that have not written it yet."""
        found: list[Timing] = []
        steps = 0
        for rank, labels in enumerate(self._labels):
            lines = self._lines(rank)
            while rank and len(lines) < steps:
                time.sleep(0.001)
                lines += self._lines(rank)
            steps = len(lines)
            if lines and not labels:
                labels += [_of_rank(rank, label) for label in lines.pop(0)]
            found += [pair for line in lines for pair in zip(labels, line, strict=True)]
        return found

    def _lines(self, rank: int) -> list[list[Any]]:
        """Those that have been written to their end."""
        *whole, self._begun[rank] = (self._begun[rank] + self._files[rank].read()).split("\n")
        return [json.loads(line) for line in whole]


def _of_rank(rank: int, operation: str = "") -> str:
    return f"rank {rank}: {operation}"


def only(steps: Sequence[StepTime], rank: int) -> list[StepTime]:
    """The steps with the operations of one rank."""
    prefix = _of_rank(rank)
    kept = [{n.removeprefix(prefix): o for n, o in each.operations.items() if n.startswith(prefix)} for each in steps]
    return [StepTime(each.whole, each.ranks, own) for each, own in zip(steps, kept, strict=True)]


class Subject:
    """The engine of a model, ready to run, with the dtype, quantization and activations of `numbers`. `close` ends its
    ranks."""

    def __init__(self, model: str | None, tp: int, threads: int, numbers: Mapping[str, str]) -> None:
        checkpoint = open_checkpoint(model_path(model))
        layout = resolve({}, tp=tp)
        length = max(prompt for _, _, prompt in CASES) + STEPS + WARM_UP
        streams = max(count for _, count, _ in CASES)
        self.settings = EngineConfig(
            max_model_len=length,
            max_num_seqs=streams,
            enable_prefix_caching=False,
            block_size=BLOCK_SIZE,
            dtype=numbers["dtype"],
            quantization=numbers["quantization"],
            activations=numbers["activations"],
            threads=threads if tp > 1 else None,
        )
        self.executor: Executor
        self.one: OneRank | None = None
        if tp > 1:
            spawner = Spawner((sys.executable, "-m", "benchmarks.common.timed_rank"))
            starting = Starting(plan_launch(checkpoint, layout, self.settings), None, spawner)
            ranks = starting.wait()
            self.executor, self.vocabulary = ranks, starting.plan.config.vocab_size
            self.timers: Timers = RankTimers([worker.pid for worker in ranks.workers])
            self.kinds = [f"{tp} ranks: {starting.plan.comm}"]
            return
        self.one = self.executor = OneRank(checkpoint, self.settings, threads, streams * (-(-length // BLOCK_SIZE) + 1))
        self.vocabulary = self.one.runner.shards.config.vocab_size
        self.timers = CallTimers()
        self.kinds = [self.one.runner.ops.describe(), self.one.runner.describe()]

    def watch(self) -> None:
        """From now on single instructions and operations are timed."""
        if self.one is not None and isinstance(self.timers, CallTimers):
            self.timers = self.one.watch(self.timers)

    def read(self, streams: int, prompt: int) -> dict[str, int]:
        """Bytes of weights and cache that a step reads, where that is what takes its time."""
        if self.one is None or prompt > SHORT:
            return {}
        context = prompt + WARM_UP + STEPS // 2
        return {**self.one.weight_bytes, "attention": streams * context * self.one.kv_bytes}

    def by_rank(self, case: str, steps: Sequence[StepTime]) -> dict[str, Sequence[StepTime]]:
        """The tables of a case, by title."""
        if self.one is not None:
            return {case: steps}
        return {f"{case}, rank {rank}": only(steps, rank) for rank in range(self.executor.layout.world)}

    def run(self, streams: int, prompt: int) -> list[StepTime]:
        """The steps that count: decode steps of all streams together, or for a long prompt the steps that read it."""
        timed = TimedExecutor(self.executor)
        engine = Engine(timed, self.settings, ())
        decode = prompt <= SHORT
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
    parser.add_argument("--tp", type=whole, default=1)
    parser.add_argument("--threads", type=whole, help="of each rank (default: its share of the cores)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--quantization", default="none", choices=("none", "int8", "int4", "gguf"))
    parser.add_argument("--activations", default="auto", choices=("auto", "full", "int8"))
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    arguments = parser.parse_args()
    threads = arguments.threads or max(1, len(os.sched_getaffinity(0)) // arguments.tp)
    with Probe(CACHE) as probe, tempfile.TemporaryDirectory() as place:  # before this process keeps to one core
        os.environ[PLACE] = place
        subject = Subject(arguments.model, arguments.tp, threads, vars(arguments))
        try:
            cases, states = measure(subject, probe)
        finally:
            subject.executor.close()
    memory = {name: round(statistics.median(state[name] for state in states), 3) for name in states[0]}
    text = "\n\n".join(f"## {name}\n\n{markdown(rows)}" for name, rows in cases.items())
    print(text, "\n", memory)
    if arguments.save:
        head = {"about": about(), "operations": subject.kinds, "tp": arguments.tp, "threads": threads}
        arguments.save.write_text(json.dumps({**head, "memory": memory, "cases": cases}, indent=1) + "\n")
        lines = {**head["about"], "operations": "; ".join(subject.kinds), **memory}
        title = "\n".join(("# Where a step's time goes\n", *(f"- {name}: {value}" for name, value in lines.items())))
        arguments.save.with_suffix(".md").write_text(f"{title}\n\n{text}\n")


def measure(subject: Subject, probe: Probe) -> tuple[dict[str, dict[str, dict[str, float]]], list[dict[str, float]]]:
    """The table of every case; what timing costs shows, of one rank, in the step with nothing timed, which runs before.
    And what the memory gave beside each."""
    plain, states = {}, []
    for name, streams, prompt in CASES if subject.one is not None else ():
        plain[name] = subject.run(streams, prompt)
        states.append(probe.ask_behind())
    subject.watch()
    cases = {}
    for name, streams, prompt in CASES:
        found = subject.run(streams, prompt)
        states.append(probe.ask_behind())
        for title, steps in subject.by_rank(name, found).items():
            cases[title] = table(steps, subject.read(streams, prompt))
        if name in plain:
            untimed = statistics.median(step.whole for step in plain[name])
            cases[name]["whole step, nothing timed"] = {"us": round(untimed, 1), "calls": 1, "share": 1.0}
    return cases, states


if __name__ == "__main__":
    run_command(main)
