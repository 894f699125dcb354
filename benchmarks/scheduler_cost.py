"""CPU time of all that Python does for a step, in microseconds, at several numbers of running requests and contexts.

    python benchmarks/scheduler_cost.py [--rounds N] [--save FILE]
    python benchmarks/scheduler_cost.py --groups 144 [--running 256] [--tp 4] [--ranks-per-host 8] [--save FILE]

The engine's part (schedule, retire): its executor answers at once and its time is taken off. A rank's part: messages
both ways, inputs of the step, and the sampler with its kernel (a vocabulary of 16). Medians over steps, and of the
engine's part the mean, which has all that happens once for every block of a request: it takes one, fills one, offers
it to others. The records that callers read are made by the reading thread, which is a figure of its own
(`records_us`). All of it several times, the cases in turns: printed is the round in which the engine's part took least,
for whatever else a machine does only adds to it, and the median of that part over all rounds. Prints one line per case;
`--save` writes them as JSON.

With `--groups` it is the head's part of a step of so many attention-dp groups, each with `--running` requests: plan,
frames for every host, results of every group, and records of every token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.common.about import about
from benchmarks.common.command import result_file, run_command, save_part, whole
from benchmarks.common.fake_engine import answer
from weft.base.settings import EngineConfig
from weft.base.step.plan import GroupResult, StepPlan, StepResult
from weft.base.step.sampling_params import SamplingParams
from weft.compute.sampling.native_sampling import SamplingKernel
from weft.compute.sampling.sampler import Sampler
from weft.engine.core.engine import Engine
from weft.parallel.layout import full, resolve
from weft.parallel.layout.rank_plans import RankPlans
from weft.runtime.ipc.messages import RunStep, StepDone, pack, unpack_for_rank, unpack_from_rank
from weft.runtime.supervisor.hosts.host_messages import of_ranks
from weft.runtime.worker.tensors.inputs import Geometry, InputBuilder

BLOCK_SIZE = 16
STEPS = 64
VOCAB = 16
CASES = ((1, 128), (32, 128), (256, 128), (1024, 128), (32, 4096), (256, 4096))
"""Running requests, and how long the context of each is."""


class Instant:
    """An executor of one group that samples token 7 at once and adds up the time it takes for that."""

    def __init__(self, num_blocks: int) -> None:
        self.layout: Any = SimpleNamespace(attention=SimpleNamespace(dp=1))
        self.num_blocks = num_blocks
        self.seconds = 0.0
        self.rank: Rank | None = None

    def step(self, plan: StepPlan) -> StepResult:
        start = time.thread_time()
        groups = [answer(group, 7) for group in plan.groups]
        if self.rank is not None:
            self.rank.step(plan, groups[0])
        self.seconds += time.thread_time() - start
        return StepResult(plan.index, groups)

    def close(self) -> None:
        """Nothing to end."""


class Head:
    """An executor of many groups: makes the frames that ranks get, as `ProcessExecutor` does, and reads their answers.
    CPU seconds of both, step by step; making the answers does not count."""

    def __init__(self, groups: int, tp: int, ranks_per_host: int, num_blocks: int) -> None:
        self.layout = resolve({"attention.dp": groups, "attention.tp": tp}, groups * tp)
        self.num_blocks, self._tp, self._per_host = num_blocks, tp, ranks_per_host
        self._plans = RankPlans(tp)
        self.times: dict[str, list[float]] = {name: [] for name in ("frames", "answers", "away")}
        self.frame_bytes = self.plan_bytes = 0

    def step(self, plan: StepPlan) -> StepResult:
        """The frames of all hosts; token 7 for every row."""
        began = time.thread_time()
        parts = [pack(RunStep(part)) for part in self._plans.split(plan)]
        sent = [self._of_host(parts, first) for first in range(0, self.layout.world, self._per_host)]
        packed = time.thread_time()
        answers = [pack(StepDone(plan.index, answer(group, 7))) for group in plan.groups]
        self.frame_bytes, self.plan_bytes = max(map(len, parts)), sum(map(len, sent))
        answered = time.thread_time()
        groups = [_result_of(frame) for frame in answers]
        read = time.thread_time()
        for name, seconds in zip(self.times, (packed - began, read - answered, read - began), strict=True):
            self.times[name].append(seconds)
        return StepResult(plan.index, groups)

    def _of_host(self, parts: list[bytes], first: int) -> bytes:
        ranks_of: dict[bytes, list[int]] = {}
        for rank in range(first, min(first + self._per_host, self.layout.world)):
            ranks_of.setdefault(parts[rank // self._tp], []).append(rank)
        return of_ranks(ranks_of)

    def close(self) -> None:
        """Nothing to end."""


def _result_of(frame: bytes) -> GroupResult:
    message = unpack_from_rank(frame)
    assert isinstance(message, StepDone)
    return message.result


class Rank:
    """What a rank does in Python for a step; CPU seconds of each part, step by step."""

    def __init__(self, running: int, context: int) -> None:
        cpu = torch.device("cpu")
        last_ids = torch.zeros(running, dtype=torch.int64)
        width = (context + 4 * STEPS) // BLOCK_SIZE + 1
        self.inputs = InputBuilder(Geometry(resolve({}), 0, BLOCK_SIZE, cpu, full(1)), last_ids, width)
        self.sampler = Sampler(running, VOCAB, cpu, (), SamplingKernel.find())
        self.logits = torch.randn(running, VOCAB)
        self.plans = RankPlans(1)
        self.times: dict[str, list[float]] = {name: [] for name in ("messages", "inputs", "sampler")}

    def step(self, plan: StepPlan, result: GroupResult) -> None:
        """Times the parts of one step."""
        for admit in plan.groups[0].new_requests:
            self.sampler.admit(admit)
        began = time.thread_time()
        (part,) = self.plans.split(plan)
        unpack_for_rank(pack(RunStep(part)))
        unpack_from_rank(pack(StepDone(plan.index, result)))
        planned = time.thread_time()
        inputs = self.inputs.build(part)
        built = time.thread_time()
        rows = inputs.sampled
        values = self.sampler.sample(self.logits[: len(rows)], rows, self.sampler.width(rows))
        self.sampler.remember(values, rows)
        ended = time.thread_time()
        for name, seconds in zip(self.times, (planned - began, built - planned, ended - built), strict=True):
            self.times[name].append(seconds)

    def medians_us(self) -> dict[str, float]:
        """Of the last steps: the decode steps."""
        return {f"{name}_us": round(statistics.median(times[-STEPS:]) * 1e6, 1) for name, times in self.times.items()}


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
    executor.rank = Rank(running, context)
    engine = Engine(executor, config, ())
    params = SamplingParams(max_tokens=4 * STEPS, temperature=0.0)
    start = time.thread_time()
    for number in range(running):
        engine.add_request(f"r{number}", [number, *range(context - 1)], params)
    added = time.thread_time() - start
    prefills = [timed_step(engine, executor)[0]]
    while (stats := engine.stats().total).generated_tokens < running or stats.running < running:
        prefills.append(timed_step(engine, executor)[0])
    steps, reading = zip(*(timed_step(engine, executor) for _ in range(STEPS)), strict=True)
    parts = executor.rank.medians_us()
    return {
        "running": running,
        "context": context,
        "whole_step_us": round(statistics.median(steps) * 1e6 + sum(parts.values()), 1),
        **parts,
        "records_us": round(statistics.median(reading) * 1e6, 1),
        "decode_step_us_median": round(statistics.median(steps) * 1e6, 1),
        "decode_step_us_mean": round(statistics.mean(steps) * 1e6, 1),
        "decode_step_us_p90": round(sorted(steps)[int(0.9 * STEPS)] * 1e6, 1),
        "decode_row_us": round(statistics.median(steps) / running * 1e6, 2),
        "add_request_us": round(added / running * 1e6, 1),
        "prefill_step_us_per_1000_tokens": round(sum(prefills) / (running * context) * 1e9, 1),
    }


def timed_step(engine: Engine, executor: Instant) -> tuple[float, float]:
    """CPU seconds that one step spends outside the executor, and that reading its records takes."""
    executor.seconds, start = 0.0, time.thread_time()
    outputs = engine.step()
    stepped = time.thread_time()
    for _ in outputs:
        pass
    return stepped - start - executor.seconds, time.thread_time() - stepped


def measure_head(groups: int, running: int, tp: int, ranks_per_host: int) -> dict[str, float | int]:
    """Decode steps of `groups` attention-dp groups with `running` requests each, milliseconds."""
    context = 32
    blocks = running * ((context + 4 * STEPS) // BLOCK_SIZE + 2)
    config = EngineConfig(
        max_model_len=context + 4 * STEPS,
        max_num_seqs=running,
        max_num_batched_tokens=running * context,
        block_size=BLOCK_SIZE,
    )
    head = Head(groups, tp, ranks_per_host, blocks)
    engine = Engine(head, config, ())
    params = SamplingParams(max_tokens=4 * STEPS, temperature=0.0, ignore_eos=True)
    for number in range(groups * running):
        engine.add_request(f"r{number}", [number % 50_000, *range(context - 1)], params)
    while engine.stats().total.running < groups * running:
        for _ in engine.step():
            pass
    steps, reading = [], []
    for _ in range(STEPS):
        began = time.thread_time()
        outputs = engine.step()
        stepped = time.thread_time()
        for _ in outputs:
            pass
        steps.append(stepped - began - head.times["away"][-1])
        reading.append(time.thread_time() - stepped)

    def middle_ms(times: list[float]) -> float:
        return round(statistics.median(times[-STEPS:]) * 1e3, 2)

    frames, answers = middle_ms(head.times["frames"]), middle_ms(head.times["answers"])
    return {
        "groups": groups,
        "running": running,
        "tp": tp,
        "ranks_per_host": ranks_per_host,
        "frame_of_a_rank_bytes": head.frame_bytes,
        "frames_of_all_hosts_bytes": head.plan_bytes,
        "schedule_and_retire_ms": middle_ms(steps),
        "frames_ms": frames,
        "answers_ms": answers,
        "head_step_ms": round(middle_ms(steps) + frames + answers, 2),
        "records_ms": middle_ms(reading),
    }


def least(rounds: list[dict[str, float | int]]) -> dict[str, float | int]:
    """One case's rounds as one."""
    means = [each["decode_step_us_mean"] for each in rounds]
    return {**rounds[means.index(min(means))], "decode_step_us_mean_of_rounds": statistics.median(means)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=15, help="how often each case is measured (15)")
    parser.add_argument("--save", type=result_file, help="write the cases to this JSON file")
    parser.add_argument("--groups", type=whole, help="the head's part of a step of so many attention-dp groups")
    parser.add_argument("--running", type=whole, default=256, help="with --groups: requests of each (256)")
    parser.add_argument("--tp", type=whole, default=4, help="with --groups: ranks of each (4)")
    parser.add_argument("--ranks-per-host", type=whole, default=8, help="with --groups (8)")
    arguments = parser.parse_args()
    if arguments.groups:
        head = measure_head(arguments.groups, arguments.running, arguments.tp, arguments.ranks_per_host)
        print("  ".join(f"{name} {value}" for name, value in head.items()))
        if arguments.save:
            save_part(arguments.save, "head", {"about": about(), "block_size": BLOCK_SIZE, "steps": STEPS, **head})
        return
    rounds = [[measure(*case) for case in CASES] for _ in range(arguments.rounds)]
    cases = [least(list(same)) for same in zip(*rounds, strict=True)]
    for case in cases:
        print("  ".join(f"{name} {value}" for name, value in case.items()))
    if arguments.save:
        record = {
            "about": about(),
            "block_size": BLOCK_SIZE,
            "steps": STEPS,
            "rounds": arguments.rounds,
            "cases": cases,
        }
        arguments.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
