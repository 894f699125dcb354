"""What bounds a prompt's products: what share of the machine's rate they have in a prompt, and out of near caches.

    python benchmarks/product_bound.py [--rounds 40] [--save FILE.json]

Each product of a layer with what becomes of its sums (stored, gated, added), in whole bf16 and in 12 bits: of a prompt
of 1,024 rows, over several layers' weights, and of few columns and rows, which stay in each core's second-level cache.
In turns, each beside the rate that products have in registers (`peers/probe.py`), right before and behind it; medians.
`all`: by the numbers that a layer has of each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from packed_linear import MODELS, Buffers, Shape, repeated, step_shapes

from benchmarks.about import about
from benchmarks.built import step_library
from benchmarks.command import result_file, run_command, whole
from benchmarks.peers.probe import Probe
from benchmarks.timing import once
from weft.checkpoint.hub.embedded import cache_dir
from weft.native.isa import chosen
from weft.native.step_library import Pool

LAYER = step_shapes(1, MODELS["smollm2-135m"][1])[:-1]
"""Its products, without the head."""
LAYERS, ROWS = 6, 1024
"""Of the prompt: with so many layers weights come from memory, as in a whole model."""
NEAR_ROWS, NEAR_BYTES, REPEATED = 192, 224 << 10, 24
"""Of each thread; of the weights that stay near; and how often a run multiplies with them."""
KINDS = ("bf16", "bf16 in 12")
PLACES = ("prompt", "near")

Run = tuple[Callable[[], object], float]
"""A call, and its GFLOP."""
Shares = dict[str, dict[str, dict[str, list[float]]]]
"""Kind -> place -> product -> shares of the machine's rate, round by round."""


def near_shape(shape: Shape) -> Shape:
    """So few of its columns that they stay in a cache."""
    name, _, depth = shape
    return name, NEAR_BYTES // (2 * 32 * depth) * 32, depth


def products(pool: Pool, kind: str, shape: Shape, among: list[Shape], rows: int, matrices: int, times: int) -> Run:
    """`rows` times each of so many matrices of `shape`, so many times; `among`: all products that share buffers."""
    buffers = Buffers(among, rows)
    if "qkv" in buffers.out:
        buffers.out["qkv"] = buffers.out["qkv"].bfloat16()  # as attention takes them
    run, _ = repeated(pool, kind, shape, buffers, rows, matrices, times)
    return run, 2e-9 * rows * shape[1] * shape[2] * matrices * times


def runs_of(pool: Pool, threads: int) -> dict[tuple[str, str, str], Run]:
    """Of each kind, place and product."""
    near = [near_shape(shape) for shape in LAYER]
    found = {}
    for kind in KINDS:
        for shape, small in zip(LAYER, near, strict=True):
            found[kind, "prompt", shape[0]] = products(pool, kind, shape, LAYER, ROWS, LAYERS, 1)
            found[kind, "near", shape[0]] = products(pool, kind, small, near, NEAR_ROWS * threads, 1, REPEATED)
    return found


def measured(runs: dict[tuple[str, str, str], Run], probe: Probe, rounds: int) -> Shares:
    """Another product begins in every round."""
    found: Shares = {kind: {place: defaultdict(list) for place in PLACES} for kind in KINDS}
    names = [*runs]
    for call, _ in runs.values():
        call()  # to warm up
    for number in range(rounds):
        first = number % len(names)
        for kind, place, product in names[first:] + names[:first]:
            call, gflop = runs[kind, place, product]
            before = probe.ask()["gflop_per_s"]
            call()  # cores that slept wake up
            rate = 1e3 * gflop / once(call)
            found[kind][place][product].append(2 * rate / (before + probe.ask()["gflop_per_s"]))
    return found


def summary(shares: dict[str, list[float]]) -> dict[str, float]:
    """Medians, and that of all products together."""
    middle = {product: statistics.median(each) for product, each in shares.items()}
    numbers = {name: columns * depth for name, columns, depth in LAYER}
    taken = sum(numbers[product] / share for product, share in middle.items())
    return {name: round(share, 3) for name, share in {**middle, "all": sum(numbers.values()) / taken}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=40)
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    library = step_library()
    with Probe(cache_dir() / "peers") as probe:  # before this thread keeps to one core, as a pool's first does
        pool = Pool(library, len(cores), cores)
        shares = measured(runs_of(pool, len(cores)), probe, args.rounds)
    found = {kind: {place: summary(each) for place, each in places.items()} for kind, places in shares.items()}
    record = {"about": about(), "instruction_set": chosen(), "rounds": args.rounds, "share_of_rate": found}
    print(json.dumps(record, indent=1))
    if args.save:
        args.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
