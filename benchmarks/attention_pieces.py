"""What it costs that attention adds keys up in pieces of 256 by position, whatever the batch: beside longer ones.

python benchmarks/attention_pieces.py [--rounds 15] [--threads N] [--out FILE.json]

A row must have the same bits in every batch, so a context is never cut where it would suit the threads of the moment.
The same kernels, compiled with longer pieces (up to one for the whole context, so that nothing is put together), take
turns over the cases of `step_attention.py`: milliseconds for 30 layers, medians. Products have no such pieces: they are
one chain over the depth for every number of rows, and `packed_linear.py` has them beside oneDNN's, which are free.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from about import about
from command import result_file, run_command, whole
from step_attention import CASES, Layers
from timing import TURN_SPIN_NS, Call, interleaved

from weft.errors import UnavailableError
from weft.native.build import find_compiler
from weft.native.isa import chosen
from weft.native.libraries import flags, source_of
from weft.native.step_library import Pool, bound

PIECES = (256, 1024, 16384)
"""Keys; the first is weft's."""
BLOCK = 16


def library(piece: int, folder: Path) -> ctypes.CDLL:
    """The step library of this machine, compiled with pieces of so many keys."""
    compiler, name = find_compiler(), f"step-{chosen()}"
    if compiler is None:
        raise UnavailableError("no C++ compiler is installed: kernels with other pieces have to be compiled")
    file = folder / f"step-{piece}.so"
    command = [*compiler, *flags(name), f"-DWEFT_CHUNK={piece}", str(source_of(name)), "-o", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"pieces of {piece} keys do not compile: {done.stderr.strip().splitlines()[-1]}")
    return bound(ctypes.CDLL(str(file)))


def attending(layers: Layers, pool: Pool) -> Call:
    """Attention of all layers."""

    def run() -> None:
        for record in layers.reads:
            pool.run_one(record, layers.step)

    return run


def measure(pools: dict[int, Pool], rounds: int) -> dict[str, dict[str, Any]]:
    """Of every case: medians, and weft's over each other one's."""
    cold, found = torch.zeros(48 << 20, dtype=torch.uint8), dict[str, dict[str, Any]]()
    for case, runs in CASES.items():
        calls = {str(piece): attending(Layers(runs, BLOCK, pool), pool) for piece, pool in pools.items()}
        times = interleaved(calls, rounds, lambda: cold.add_(1))
        ms = {piece: statistics.median(values) for piece, values in times.items()}
        ours, *others = ms
        found[case] = {
            "ms": {piece: round(value, 3) for piece, value in ms.items()},
            "over": {piece: round(ms[ours] / ms[piece], 2) for piece in others},
        }
        print(f"{case}: {found[case]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole, default=15)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--out", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        built = {piece: library(piece, Path(folder)) for piece in PIECES}
        pools = {piece: Pool(each, args.threads, spin_ns=TURN_SPIN_NS) for piece, each in built.items()}
        cases = measure(pools, args.rounds)
        for pool in pools.values():
            pool.close()
    words = {"threads": args.threads, "rounds": args.rounds, "block_size": BLOCK, "instruction_set": chosen()}
    if args.out:
        args.out.write_text(json.dumps({"about": about(), **words, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
