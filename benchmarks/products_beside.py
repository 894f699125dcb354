"""Products with packed weights by this working copy's step library beside those by a commit's, in turns in one process.

    python benchmarks/products_beside.py COMMIT [--kinds "bf16 in 12" "int4 x 8" ...] [--rows 1 4 8 ...] [--rounds 21]
                                         [--save FILE.json]

For what a kernel gains or loses before all that lies around it, where the machine's own speed changes more. Of every
round the ratio of the two times is taken, and of the ratios median and quartiles: above 1 this working copy is faster.
Once for all products of SmolLM2-135M's layers (and the head, up to 64 rows), whose weights come from memory, once for a
matrix of 576 columns again and again, whose weights stay in the caches. Each library packs its own weights.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from packed_linear import KINDS, Buffers, packed, plain_weights, program_of, rates, repeated, shapes_of, step_of

from benchmarks.about import about
from benchmarks.beside_commit import checked_out
from benchmarks.built import step_library
from benchmarks.command import result_file, run_command, whole
from benchmarks.offline_engine import quantile
from benchmarks.timing import TURN_SPIN_NS, interleaved
from weft.native.isa import chosen
from weft.native.step_library import Pool, bound

MODEL, DEPTH = "smollm2-135m", 576
NEAR_COLUMNS, REPEATED = 576, 100
ROWS = (1, 2, 4, 8, 12, 16, 32, 128)


def library_of(folder: Path) -> ctypes.CDLL:
    """Of another tree, the variant that this CPU takes."""
    (path,) = (folder / "weft" / "native" / "_build").glob(f"step-{chosen()}-*.so")
    return bound(ctypes.CDLL(str(path)))


def compared(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Of the first one's time and the second one's."""
    before, now = interleaved(calls, rounds).values()
    ratios = [theirs / ours for theirs, ours in zip(before, now, strict=True)]
    found = {"ratio": statistics.median(ratios), "ratio_q1": quantile(ratios, 0.25), "ratio_q3": quantile(ratios, 0.75)}
    return {"ms": round(statistics.median(now), 3), **{name: round(each, 3) for name, each in found.items()}}


def of_kind(pools: Mapping[str, Pool], kind: str, rows: list[int], rounds: int) -> list[dict[str, Any]]:
    """One record for each number of rows."""
    shapes, near = shapes_of(MODEL), ("gate_up", NEAR_COLUMNS, DEPTH)
    plain, buffers, found = plain_weights(shapes), Buffers(shapes, max(rows)), []
    weights = {name: packed(pool, kind, shapes, plain) for name, pool in pools.items()}
    programs = {name: program_of(pool, shapes, weights[name], buffers) for name, pool in pools.items()}
    for count in rows:
        whole_step = {name: functools.partial(program.run, step_of(count)) for name, program in programs.items()}
        few = Buffers([near], count)
        again = {name: repeated(pool, kind, near, few, count, 1, REPEATED)[0] for name, pool in pools.items()}
        record = {"memory": compared(whole_step, rounds), "caches": compared(again, rounds)}
        record["memory"] |= rates(shapes, weights["this one"], count, record["memory"]["ms"])
        found.append({"kind": kind, "rows": count, **record})
        print(found[-1], flush=True)
    for program in programs.values():
        program.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument(
        "--kinds", nargs="+", default=["bf16 in 12", "int8", "int8 x 8", "int4 x 8"], choices=list(KINDS)
    )
    parser.add_argument("--rows", type=whole, nargs="+", default=list(ROWS))
    parser.add_argument("--rounds", type=whole, default=21)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    with checked_out(args.commit) as folder, ExitStack() as stack:
        pools = {}
        for name, library in ((args.commit, library_of(folder)), ("this one", step_library())):
            pools[name] = Pool(library, args.threads, spin_ns=TURN_SPIN_NS)
            stack.callback(pools[name].close)
        found = [each for kind in args.kinds for each in of_kind(pools, kind, args.rows, args.rounds)]
    if args.save:
        record = {"about": about(), "commit": args.commit, "variant": chosen(), "threads": args.threads}
        args.save.write_text(json.dumps({**record, "products": found}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
