"""Latency and bandwidth of the comm backends between processes: shared_memory against gloo, taking turns.

    python benchmarks/comm_latency.py [--worlds 2 4] [--bytes 64 4096 ...] [--rounds 5]
                                      [--save FILE.json]

Each rank is a process, pinned to a core of its own where there are enough. A call is timed on rank 0 from entry to
return, one after the other without a pause. `bytes` is what one rank brings: the tensor of all_reduce and all_gather,
all parts together of reduce_scatter and all_to_all; GB/s are these bytes by the median. `--save` writes a
table in Markdown too, beside the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.common.about import about
from benchmarks.common.command import at_least, result_file, run_command, whole
from benchmarks.common.forked_ranks import of_first_rank
from weft.compute.comm.backend import CommSpec, RankEnd
from weft.compute.comm.base import Comm, Group
from weft.compute.comm.registry import BACKENDS
from weft.compute.native.build import ensure_built

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
NAMES = tuple(each.name for each in BACKENDS)
SECONDS_A_TURN = 0.15


def call_of(kind: str, comm: Comm, group: Group, size: int) -> Callable[[], object]:
    """One collective over prepared buffers."""
    count = size // 4
    x = torch.ones(count)
    if kind == "all_reduce":
        return lambda: comm.all_reduce(x, group)
    if kind == "all_gather":
        outs = list(torch.empty(count * len(group)).split(count))
        return lambda: comm.all_gather(x, outs, group)
    parts = [count // len(group) + (i < count % len(group)) for i in range(len(group))]
    mine = parts[group.index(comm.rank)]
    if kind == "reduce_scatter":
        own = torch.empty(mine)
        return lambda: comm.reduce_scatter(list(x.split(parts)), own, group)
    xs, outs = list(x.split(parts)), list(torch.empty(mine * len(group)).split(mine))
    return lambda: comm.all_to_all(xs, outs, group)


def turn(call: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each of `count` calls."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e6)
    return times


def agreed_count(call: Callable[[], object], comm: Comm, group: Group) -> int:
    """Calls that fill a turn; the same number on every rank: rank 0's."""
    warm = sorted(turn(call, 5))[2] / 1e6
    count = torch.tensor([min(3000, max(3, int(SECONDS_A_TURN / warm))) if comm.rank == 0 else 0])
    return int(comm.all_reduce(count, group).item())


def measure(comms: dict[str, Comm], group: Group, sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Backends take turns within each case, so that what else the machine does meets both."""
    cases = []
    for kind in KINDS:
        for size in sizes:
            calls = {name: call_of(kind, comm, group, size) for name, comm in comms.items()}
            counts = {name: agreed_count(calls[name], comm, group) for name, comm in comms.items()}
            times: dict[str, list[float]] = {name: [] for name in comms}
            for _ in range(rounds):
                for name in comms:
                    comms[name].barrier(group)
                    times[name] += turn(calls[name], counts[name])
            found = {name: summary(times[name], size) for name in comms}
            cases.append({"kind": kind, "ranks": len(group), "bytes": size} | found)
    return cases


def summary(times: list[float], size: int) -> dict[str, float]:
    """Median and 99th percentile in microseconds, and `size` bytes by the median."""
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    rate = round(size / p50 / 1e3, 3)
    return {"p50_us": round(p50, 1), "p99_us": round(p99, 1), "gb_per_s": rate, "calls": len(times)}


def run_world(world: int, sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """The cases as rank 0 of so many sees them."""
    group = tuple(range(world))
    meetings = {each: each.meet(CommSpec(world, (group,))) for each in BACKENDS}

    def run(rank: int) -> list[dict[str, Any]]:
        comms = {
            each.name: each.make(RankEnd(rank, world, (group,), meeting.fds(rank)))
            for each, meeting in meetings.items()
        }
        cases = measure(comms, group, sizes, rounds)
        comms["gloo"].barrier(group)
        return cases

    cases: list[dict[str, Any]] = of_first_rank(world, run)
    for meeting in meetings.values():
        meeting.close()
    return cases


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    info = report["about"]
    lines = [
        "# Latency and bandwidth of collectives: shared_memory against gloo",
        "",
        f"`{info['command']}`, {info['created']}",
        "",
        f"{info['cpu']}, {info['cores']} cores, {info['kernel']}, Python {info['python']}, "
        f"torch {info['torch']}, {info['compiler']}; "
        f"load average {info['load_average']} before, {report['load_average_after']} after.",
        "",
        "Microseconds per call through the Python API, p50 / p99. The backends take turns in the same processes; what "
        "else the machine does (see the load average) shows in p99 first. Ranks are pinned, one to a core, where there "
        "are as many cores as ranks; with more ranks than cores nobody spins and every wait is a context switch.",
        "",
        "| ranks | collective | bytes | shared_memory | GB/s | gloo | GB/s | times faster (p50) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in report["cases"]:
        cells = [
            f"{case[name]['p50_us']:g} / {case[name]['p99_us']:g} | {case[name]['gb_per_s']:.3g}" for name in NAMES
        ]
        faster = case["gloo"]["p50_us"] / case["shared_memory"]["p50_us"]
        lines.append(f"| {case['ranks']} | {case['kind']} | {case['bytes']} | {cells[0]} | {cells[1]} | {faster:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency and bandwidth of shared_memory against gloo.")
    parser.add_argument("--worlds", type=at_least(2), nargs="+", default=[2, 4])
    parser.add_argument("--bytes", type=whole, nargs="+", default=[64, 4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20])
    parser.add_argument("--rounds", type=whole, default=5, help="turns of each backend in each case")
    parser.add_argument("--save", type=result_file, metavar="FILE.json", help="write it there, and a table beside it")
    options = parser.parse_args()
    if (status := ensure_built(["comm"])[0]).path is None:
        sys.exit(f"no shared_memory here: {status.reason}")
    report: dict[str, Any] = {"about": about()}
    report["cases"] = [case for world in options.worlds for case in run_world(world, options.bytes, options.rounds)]
    report["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    print(table(report))
    if options.save:
        options.save.write_text(json.dumps(report, indent=1) + "\n")
        options.save.with_suffix(".md").write_text(table(report))


if __name__ == "__main__":
    run_command(main)
