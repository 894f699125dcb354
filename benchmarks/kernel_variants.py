"""The variants of the step library beside each other: the products of a decoder step with packed weights, in turns.

python benchmarks/kernel_variants.py [--variants avx512bf16 avx512vnni ...] [--model smollm2-135m] [--rounds 7]
                                     [--out FILE.json]

Milliseconds for the products of all layers (and the head, up to 64 rows), medians, and what that makes in GB/s of
weights and GFLOP/s. Without --variants all that this CPU runs, in the order in which weft prefers them.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from about import about
from command import result_file, run_command, whole
from packed_linear import (
    KINDS,
    MODELS,
    Buffers,
    bandwidth,
    packed,
    plain_weights,
    program_of,
    rates,
    shapes_of,
    step_of,
)
from timing import TURN_SPIN_NS, interleaved

from weft.native import build, isa, libraries
from weft.native.step_library import Pool, bound

ROWS = (1, 4, 8, 16, 32, 128, 512)


def pool_of(variant: str, threads: int) -> Pool:
    """Of the library built for `variant`; compiled here if it is not there yet."""
    (status,) = build.ensure_built([f"step-{variant}"])
    path = libraries.find(f"step-{variant}")
    if path is None:
        sys.exit(f"{variant}: {status.reason}")
    return Pool(bound(ctypes.CDLL(str(path))), threads, spin_ns=TURN_SPIN_NS)


def run_kind(pools: dict[str, Pool], model: str, kind: str, rounds: int) -> list[dict[str, Any]]:
    """One record for each number of rows."""
    shapes = shapes_of(model)
    plain, buffers, found = plain_weights(shapes), Buffers(shapes, max(ROWS)), []
    weights = {variant: packed(pool, kind, shapes, plain) for variant, pool in pools.items()}
    programs = {variant: program_of(pool, shapes, weights[variant], buffers) for variant, pool in pools.items()}
    for rows in ROWS:
        step, reading = step_of(rows), bandwidth()
        calls = {variant: functools.partial(program.run, step) for variant, program in programs.items()}
        record: dict[str, Any] = {"kind": kind, "rows": rows, "read_gb_s": round(reading, 1), "variants": {}}
        for variant, times in interleaved(calls, rounds).items():
            ms = statistics.median(times)
            record["variants"][variant] = {"ms": round(ms, 3), **rates(shapes, weights[variant], rows, ms)}
        print(record, flush=True)
        found.append(record)
    for program in programs.values():
        program.close()
    return found


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Of a benchmark of variants."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(isa.runnable()), choices=isa.runnable())
    parser.add_argument("--rounds", type=whole, default=rounds)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--out", type=result_file, metavar="FILE.json")
    return parser


def run(args: argparse.Namespace, measured: Callable[[dict[str, Pool]], dict[str, Any]]) -> None:
    """Saves what is measured with a pool of each variant, where `options` ask for it."""
    torch.manual_seed(0)
    pools = {variant: pool_of(variant, args.threads) for variant in args.variants}
    record = {"about": about(), "threads": args.threads, **measured(pools)}
    for pool in pools.values():
        pool.close()
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--model", default="smollm2-135m", choices=list(MODELS))
    parser.add_argument("--kinds", nargs="+", default=["bf16", "int8"], choices=list(KINDS))
    args = parser.parse_args()

    def products(pools: dict[str, Pool]) -> dict[str, Any]:
        found = [each for kind in args.kinds for each in run_kind(pools, args.model, kind, args.rounds)]
        return {"model": args.model, "products": found}

    run(args, products)


if __name__ == "__main__":
    run_command(main)
