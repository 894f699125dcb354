"""What bounds products of one row on one core: what it takes from memory alone, or multiplying.

    python benchmarks/core_bound.py [--rounds 21] [--save FILE.json]

GB/s of weights that a row is multiplied with by one thread, by how they are kept, beside plain reads, in turns,
medians: from memory and out of the second-level cache. Where cores have links to memory of their own, none gets more
than this one does alone, and a kind of weights comes near to plain reads, or does not, by how much is multiplied with
the same bytes: see what it reaches out of the cache.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from about import about
from command import result_file, run_command, whole
from packed_linear import Buffers, packed, plain_weights, program_of, step_of
from timing import TURN_SPIN_NS, interleaved

from weft.native import missing_reason
from weft.native.isa import chosen
from weft.native.step_library import Pool, open_library

DEPTH, COLUMNS, MATRICES = 576, 3072, 40
"""Of the matrices in memory, 70 MB and more of each kind."""
NEAR_COLUMNS, REPEATED = 576, 200
"""Of the matrix that stays in the cache, 0.7 MB at most, and how often a run reads it."""
SHOWN = ("bf16", "bf16 in 12", "int8 x 8", "int4 x 8")


def products(pool: Pool, kind: str, columns: int, matrices: int, times: int) -> tuple[Callable[[], None], int]:
    """A run of all products with a row, and the bytes of weights that it reads."""
    shapes = [("gate_up", columns, DEPTH)] * matrices
    weights = packed(pool, kind, shapes, plain_weights(shapes)) * times
    program = program_of(pool, shapes * times, weights, Buffers(shapes, 1))
    return functools.partial(program.run, step_of(1)), sum(weight.nbytes for weight in weights)


def measured(rounds: int) -> dict[str, Any]:
    """GB/s by place and kind."""
    library = open_library()
    if library is None:
        raise SystemExit(f"the step library is missing: {missing_reason('step')}")
    torch.set_num_threads(1)  # of plain reads
    pool, found = Pool(library, 1, spin_ns=TURN_SPIN_NS), {}
    block = torch.ones(MATRICES * COLUMNS * DEPTH // 2)
    places = {"memory": (COLUMNS, MATRICES, 1), "cache": (NEAR_COLUMNS, 1, REPEATED)}
    for place, (columns, matrices, times) in places.items():
        runs = {kind: products(pool, kind, columns, matrices, times) for kind in SHOWN}
        if place == "memory":
            runs["plain reads"] = block.sum, block.nbytes
        ms = interleaved({kind: run for kind, (run, _) in runs.items()}, rounds)
        rates = {kind: [runs[kind][1] / each / 1e6 for each in times] for kind, times in ms.items()}
        found[place] = {kind: round(statistics.median(each), 1) for kind, each in rates.items()}
        print(f"{place}: {found[place]}", flush=True)
    pool.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=21)
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    found = measured(args.rounds)
    record = {"about": about(), "instruction_set": chosen(), "gb_per_s": found}
    print(json.dumps(record, indent=1))
    if args.save:
        args.save.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
