"""What bounds products of one row: what one core takes from memory alone, what all take together, or multiplying.

    python benchmarks/core_bound.py [--rounds 60] [--save FILE.json]

GB/s of weights that a row is multiplied with, by how they are kept, beside plain reads, in turns, medians: by one
thread, out of its second-level cache and from memory, and from memory by a thread on each core. Cores of a virtual
machine may sit on one die, with one link to memory, or on two, and move: rounds of all cores are told apart by how
long a flag takes between the first two, right before and behind them (`peers/probe.py`), and left out where it changed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from packed_linear import Buffers, repeated

from benchmarks.about import about
from benchmarks.built import step_library
from benchmarks.command import result_file, run_command, whole
from benchmarks.peers.probe import FAR_US, Probe
from benchmarks.timing import TURN_SPIN_NS, once
from weft.checkpoint.hub.embedded import cache_dir
from weft.native.isa import chosen
from weft.native.step_library import Pool

DEPTH, COLUMNS, MATRICES = 576, 3072, 40
"""Of the matrices in memory, 40 MB and more of each kind."""
NEAR_COLUMNS, REPEATED = 576, 200
"""Of the matrix that stays in the cache, 0.7 MB at most, and how often a run reads it."""
KINDS = ("bf16", "bf16 in 12", "int8 x 8", "int4 x 8")
READS = "plain reads"

Run = tuple[Callable[[], object], int]
"""A call, and the bytes that it reads."""
Rates = dict[str, dict[str, list[float]]]
"""Place -> kind -> GB/s, round by round."""


def products(pool: Pool, kind: str, columns: int, matrices: int, times: int = 1) -> Run:
    """All products with a row."""
    shape = "gate_up", columns, DEPTH
    return repeated(pool, kind, shape, Buffers([shape], 1), 1, matrices, times)


def take(rates: Mapping[str, list[float]], runs: Mapping[str, Run], first: int) -> None:
    """One round; another kind begins in every round."""
    names = [*runs][first % len(runs) :] + [*runs][: first % len(runs)]
    for name in names:
        call, nbytes = runs[name]
        rates[name].append(nbytes / once(call) / 1e6)


def measured(pools: Mapping[str, Pool], probe: Probe, rounds: int) -> Rates:
    """Of one core, and of all where they are."""
    block = torch.ones(MATRICES * COLUMNS * DEPTH // 2)
    runs = {
        place: {kind: products(pools[place], kind, COLUMNS, MATRICES) for kind in KINDS} for place in ("one", "all")
    }
    runs["one"][READS] = block.sum, block.nbytes
    runs["cache"] = {kind: products(pools["one"], kind, NEAR_COLUMNS, 1, REPEATED) for kind in KINDS}
    found: Rates = defaultdict(lambda: defaultdict(list))
    for place in runs:
        take(defaultdict(list), runs[place], 0)  # to warm up
    for number in range(rounds):
        take(found["one core, out of its cache"], runs["cache"], number)
        take(found["one core"], runs["one"], number)
        before = probe.ask()
        together: dict[str, list[float]] = defaultdict(list)
        runs["all"][KINDS[0]][0]()  # cores that slept wake up
        take(together, runs["all"], number)
        after = probe.ask()
        far = [state["flag_us"] > FAR_US for state in (before, after)]
        if far[0] != far[1]:
            continue
        together[READS].append((before["gb_per_s"] + after["gb_per_s"]) / 2)
        for kind, each in together.items():
            found[f"all cores, on {'two dies' if far[0] else 'one die'}"][kind] += each
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=60)
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    torch.set_num_threads(1)  # of plain reads: others would look for work on cores of the rounds that follow
    library = step_library()
    cores = sorted(os.sched_getaffinity(0))
    with Probe(cache_dir() / "peers") as probe:  # before this thread keeps to one core, as a pool's first does
        pools = {name: Pool(library, len(on), on, TURN_SPIN_NS) for name, on in (("one", cores[:1]), ("all", cores))}
        rates = measured(pools, probe, args.rounds)
    found = {
        place: {kind: round(statistics.median(each), 1) for kind, each in kinds.items()}
        | {"rounds": len(kinds[KINDS[0]])}
        for place, kinds in rates.items()
    }
    record = {"about": about(), "instruction_set": chosen(), "gb_per_s": found}
    print(json.dumps(record, indent=1))
    if args.save:
        args.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
