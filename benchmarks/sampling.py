"""Sampling one token per row: the C++ kernel against its torch twin.

python benchmarks/sampling.py [--threads N] [--vocab V] [--out FILE.json]: milliseconds a step for 1, 32 and 256 rows,
best and median of interleaved rounds; logits like a language model's (a few likely tokens over a wide rest).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from about import about
from built import step_library
from command import result_file, run_command, whole
from timing import best_and_median, interleaved

from weft.native.isa import chosen
from weft.native.step_library import Pool
from weft.ops.native_sampling import SamplingKernel
from weft.ops.sampled_rows import sampled_rows
from weft.ops.sampling import Sampler
from weft.step.plan import Admit, Run
from weft.step.sampling_params import SamplingParams

ROWS = (1, 32, 256)
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k 50": {"temperature": 0.8, "top_k": 50},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "top_k 50, top_p 0.9, min_p 0.01": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
}


def make_kernel(threads: int) -> SamplingKernel:
    library = step_library()
    return SamplingKernel(library, Pool(library, threads))


def run_case(params: dict[str, Any], rows: int, vocab: int, kernel: SamplingKernel, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)
    logits = 2.5 * torch.randn(rows, vocab, generator=generator)
    places = sampled_rows(np.zeros((3, 0), np.int64), [Run(slot, 0, 1, [], [1], True, 3) for slot in range(rows)])
    calls: dict[str, Callable[[], object]] = {}
    found = {}
    for name, chosen_kernel in (("kernel", kernel), ("torch twin", None)):
        sampler = Sampler(rows, vocab, torch.device("cpu"), (), chosen_kernel)
        for slot in range(rows):
            sampler.admit(Admit(slot, [], [], SamplingParams(**params), slot))
        calls[name] = lambda sampler=sampler: sampler.sample(logits, places, 2)  # type: ignore[misc]
        found[name] = sampler.sample(logits, places, 2)[:, 0].tolist()
    times = interleaved(calls, rounds)
    result: dict[str, Any] = {name: best_and_median(found, 4) for name, found in times.items()}
    result["equal ids"] = sum(a == b for a, b in zip(*found.values(), strict=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--vocab", type=whole, default=49_152)
    parser.add_argument("--rounds", type=whole, default=9)
    parser.add_argument("--out", type=result_file)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kernel = make_kernel(args.threads)
    results: dict[str, dict[str, Any]] = {}
    for name, params in CASES.items():
        for rows in ROWS:
            found = run_case(params, rows, args.vocab, kernel, args.rounds)
            results.setdefault(name, {})[str(rows)] = found
            shown = ", ".join(f"{what} {found[what]['best']:.3f}" for what in ("kernel", "torch twin"))
            print(f"{name}, {rows} rows: best ms {shown}; {found['equal ids']} of {rows} ids equal", flush=True)
    record = {
        "benchmark": "sampling",
        "unit": "ms per step",
        "vocabulary": args.vocab,
        "threads": args.threads,
        "instruction_set": chosen(),
        "rounds": args.rounds,
        "about": about(),
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
