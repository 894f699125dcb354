"""Rows spread over expert slots: one grouped product on packed weights against loops of products, slot by slot.

python benchmarks/grouped_experts.py [--threads N] [--out FILE.json]: milliseconds, best and median, for 1 to 512 rows
over 16 slots of bf16 [1536, 1024], drawn evenly and with most rows on few slots. `packed loop` calls the packed kernel
once for each slot with rows, `torch loop` F.linear, `torch grouped` torch's grouped product. They take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from about import about
from built import step_library
from command import positive, result_file, run_command, whole
from timing import best_and_median, filling
from torch import Tensor

from weft.native.step_library import Pool
from weft.ops.packed import PackedSlots, Packing
from weft.ops.single_experts import SingleExperts

ROOT = Path(__file__).resolve().parents[1]
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SLOTS, COLUMNS, DEPTH = 16, 1536, 1024
TURNS, SETTLE = 4, 0.03


def timed(ways: dict[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of each way. They take turns, `TURNS` for about `seconds` in all; a turn begins with calls that are
    not counted, for the threads of the one before spin a while."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, run in ways.items():
            times[name] += filling(run, seconds / (TURNS * len(ways)), SETTLE)
    return {name: best_and_median(each, 3, "_ms") for name, each in times.items()}


def ways(ops: SingleExperts, packed: PackedSlots, plain: Tensor, counts: Tensor) -> dict[str, Callable[[], object]]:
    """`counts`: rows of each slot."""
    rows = int(counts.sum())
    x, out = torch.randn(rows, DEPTH).bfloat16(), torch.empty(rows, COLUMNS, dtype=torch.bfloat16)
    ends = counts.cumsum(0)
    parts = [(slot, part) for slot, part in enumerate(x.split(counts.tolist())) if len(part)]
    outs = [part for part in out.split(counts.tolist()) if len(part)]

    def packed_loop() -> None:
        for (slot, part), to in zip(parts, outs, strict=True):
            ops.linear(part, packed.slots[slot], to)

    def torch_loop() -> None:
        for slot, part in parts:
            F.linear(part, plain[slot])

    return {
        "packed grouped": lambda: ops.grouped(x, ends, packed, out),
        "packed loop": packed_loop,
        "torch loop": torch_loop,
        "torch grouped": lambda: torch._grouped_mm(x, plain.transpose(1, 2), offs=ends.to(torch.int32)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=positive, default=0.6)
    parser.add_argument("--out", type=result_file, metavar="FILE.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    pool = Pool(step_library(), args.threads)
    plain = torch.randn(SLOTS, COLUMNS, DEPTH).mul_(0.02).bfloat16()
    packed, ops = Packing(pool).pack_slots(plain.flatten(0, 1), SLOTS), SingleExperts(pool)
    found: list[dict[str, Any]] = []
    for spread, weights in (("even", torch.ones(SLOTS)), ("skewed", 1 / torch.arange(1.0, SLOTS + 1) ** 1.2)):
        for rows in ROWS:
            counts = torch.bincount(torch.multinomial(weights, rows, replacement=True), minlength=SLOTS)
            used = int((counts > 0).sum())
            times = timed(ways(ops, packed, plain, counts), args.seconds)
            found.append({"spread": spread, "rows": rows, "slots_used": used, **times})
            said = ", ".join(f"{name} {each['median_ms']}" for name, each in times.items())
            print(f"{spread} {rows:4} rows over {used:2} of {SLOTS} slots, ms: {said}", flush=True)
    pool.close()
    record = {"benchmark": "grouped_experts", **about(), "threads": args.threads, "products": found}
    if args.out is None:
        return
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
