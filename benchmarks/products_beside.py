"""Products with packed weights by this working copy's step library beside those by a commit's, in turns in one process.

    python benchmarks/products_beside.py COMMIT [--kinds "bf16 in 12" "int4 x 8" ...] [--rows 1 4 8 ...] [--starts 5]
                                         [--rounds 7] [--save FILE.json]

For what a kernel gains or loses before all that lies around it, where the machine's own speed changes more. Of every
round the ratio of the two times is taken, and of the ratios median and quartiles: above 1 this working copy is faster.
Once for all products of SmolLM2-135M's layers (and the head, up to 64 rows), whose weights come from memory, once for a
matrix of 576 columns again and again, whose weights stay in the caches. Each library packs its own weights, and where
they come to lie makes a library faster or slower than itself (HEAD as COMMIT shows by how much, start by start): so
they are packed anew with each start, by another one first.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from packed_linear import KINDS, Buffers, packed, plain_weights, program_of, rates, repeated, shapes_of, step_of

from benchmarks.about import about
from benchmarks.beside_commit import checked_out
from benchmarks.built import step_library
from benchmarks.command import result_file, run_command, whole
from benchmarks.timing import TURN_SPIN_NS, interleaved, ratios_beside
from weft.native.isa import chosen
from weft.native.step_library import Pool, bound

MODEL, DEPTH = "smollm2-135m", 576
NEAR_COLUMNS, REPEATED = 576, 100
ROWS = (1, 2, 4, 8, 12, 16, 32, 128)

Times = tuple[list[float], list[float]]
"""Milliseconds by the commit's library and by this one, round by round."""


def library_of(folder: Path) -> ctypes.CDLL:
    """Of another tree, the variant that this CPU takes."""
    (path,) = (folder / "weft" / "native" / "_build").glob(f"step-{chosen()}-*.so")
    return bound(ctypes.CDLL(str(path)))


def compared(starts: list[Times]) -> dict[str, Any]:
    """Of all rounds together, and the median ratio of each start."""
    theirs, ours = (sum(each, []) for each in zip(*starts, strict=True))
    of_starts = [ratios_beside(*each)["ratio"] for each in starts]
    return {"ms": round(statistics.median(ours), 3), **ratios_beside(theirs, ours), "ratio_of_starts": of_starts}


class Start:
    """Weights of a kind, packed by each library, the `first` one first."""

    shapes, near = shapes_of(MODEL), ("gate_up", NEAR_COLUMNS, DEPTH)

    def __init__(self, pools: Mapping[str, Pool], kind: str, first: int, most: int) -> None:
        self.kind, self.names = kind, list(pools)
        self.pools = {name: pools[name] for name in self.names[first:] + self.names[:first]}
        plain, buffers = plain_weights(self.shapes), Buffers(self.shapes, most)
        self.weights = {name: packed(pool, kind, self.shapes, plain) for name, pool in self.pools.items()}
        self.programs = {
            name: program_of(pool, self.shapes, self.weights[name], buffers) for name, pool in self.pools.items()
        }

    def rounds(self, rows: int, rounds: int) -> dict[str, Times]:
        """Of the products of so many rows, of weights from memory and from caches."""
        whole_step = {name: functools.partial(each.run, step_of(rows)) for name, each in self.programs.items()}
        few = Buffers([self.near], rows)
        again = {
            name: repeated(pool, self.kind, self.near, few, rows, 1, REPEATED)[0] for name, pool in self.pools.items()
        }
        found = {}
        for where, calls in (("memory", whole_step), ("caches", again)):
            times = interleaved(calls, rounds)
            theirs, ours = (times[name] for name in self.names)
            found[where] = theirs, ours
        return found

    def close(self) -> None:
        for program in self.programs.values():
            program.close()


def of_kind(pools: Mapping[str, Pool], kind: str, rows: list[int], starts: int, rounds: int) -> list[dict[str, Any]]:
    """One record for each number of rows."""
    taken: dict[int, dict[str, list[Times]]] = {count: {"memory": [], "caches": []} for count in rows}
    for number in range(starts):
        with closing(Start(pools, kind, number % 2, max(rows))) as start:
            for count in rows:
                for where, times in start.rounds(count, rounds).items():
                    taken[count][where].append(times)
    found = []
    for count, places in taken.items():
        record = {where: compared(times) for where, times in places.items()}
        record["memory"] |= rates(start.shapes, start.weights["this one"], count, record["memory"]["ms"])
        found.append({"kind": kind, "rows": count, **record})
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument(
        "--kinds", nargs="+", default=["bf16 in 12", "int8", "int8 x 8", "int4 x 8"], choices=list(KINDS)
    )
    parser.add_argument("--rows", type=whole, nargs="+", default=list(ROWS))
    parser.add_argument("--starts", type=whole, default=5)
    parser.add_argument("--rounds", type=whole, default=7, help="of each start")
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--save", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    with checked_out(args.commit) as folder, ExitStack() as stack:
        pools = {}
        for name, library in ((args.commit, library_of(folder)), ("this one", step_library())):
            pools[name] = Pool(library, args.threads, spin_ns=TURN_SPIN_NS)
            stack.callback(pools[name].close)
        found = [each for kind in args.kinds for each in of_kind(pools, kind, args.rows, args.starts, args.rounds)]
    if args.save:
        record = {"about": about(), "commit": args.commit, "variant": chosen(), "threads": args.threads}
        record |= {"starts": args.starts, "rounds": args.rounds}
        args.save.write_text(json.dumps({**record, "products": found}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
