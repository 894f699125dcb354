"""Products with numbers of bf16 in 12 bits beside those in 16, in turns, and how many of the numbers are told apart.

python benchmarks/compressed_weights.py [--variants avx512bf16 avx2 ...] [--model DIR] [--rounds 15] [--out FILE.json]

Milliseconds for the products of all layers (and the head, up to 64 rows) of SmolLM2-135M's shapes with normal numbers,
by variant of the step library and number of rows, medians, and the median ratio of the times. Of normal numbers, with
and without many zeros, of others with longer tails (Student's t) and of the matrices of a model: the share of groups of
1,024 that hold a number whose exponent is told apart, and how many of those a group holds; null where the matrix stays
whole.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

import torch
from command import run_command
from kernel_variants import options, run
from packed_linear import Buffers, packed, plain_weights, program_of, shapes_of, step_of
from timing import interleaved
from torch import Tensor

from weft.checkpoint import open_checkpoint
from weft.checkpoint.hub.paths import model_path
from weft.native.records import WeightKind
from weft.native.step_library import Pool
from weft.ops.packed import Packing
from weft.weights.reader import SliceReader

ROWS = (1, 4, 8, 12, 16, 24, 32, 64, 128, 512)
KINDS = ("bf16", "bf16 in 12")
BYTES_OF_GROUP, COUNT_AT = 8, 4
"""Of a group's record in a packed weight's scales, and where in it the count of its far numbers is, int16."""


def products(pool: Pool, rounds: int) -> list[dict[str, Any]]:
    """One record for each number of rows."""
    shapes = shapes_of("smollm2-135m")
    plain, buffers = plain_weights(shapes), Buffers(shapes, max(ROWS))
    weights = {kind: packed(pool, kind, shapes, plain) for kind in KINDS}
    programs = {kind: program_of(pool, shapes, weights[kind], buffers) for kind in KINDS}
    found = []
    for rows in ROWS:
        calls = {kind: functools.partial(program.run, step_of(rows)) for kind, program in programs.items()}
        whole_ms, ms = interleaved(calls, rounds).values()
        ratios = [ours / theirs for ours, theirs in zip(ms, whole_ms, strict=True)]
        medians = {"16 bits ms": whole_ms, "12 bits ms": ms, "ratio": ratios}
        found.append({"rows": rows, **{name: round(statistics.median(each), 3) for name, each in medians.items()}})
        print(found[-1], flush=True)
    for program in programs.values():
        program.close()
    return found


def far(packing: Packing, weight: Tensor) -> tuple[float, float] | None:
    """Share of groups with a far number, and far numbers of a group; None where the matrix stays whole."""
    made = packing.pack(weight.bfloat16(), WeightKind.BF12)
    if made.kind != WeightKind.BF12:
        return None
    counts = made.scale.view(-1, BYTES_OF_GROUP)[:, COUNT_AT : COUNT_AT + 2].contiguous().view(torch.int16).float()
    return round(float((counts > 0).float().mean()), 4), round(float(counts.mean()), 4)


def shares(packing: Packing, model: str | None) -> dict[str, tuple[float, float] | None]:
    """`far` by what the numbers are."""
    side = (2048, 2048)
    found = {"normal": far(packing, torch.randn(side))}
    for deviation in (0.02, 1.0):
        half = torch.randn(side).mul_(deviation).masked_fill_(torch.rand(side) < 0.5, 0)
        found[f"half of them 0, the others normal, deviation {deviation}"] = far(packing, half)
    for freedom in (8, 5, 3):
        found[f"Student's t, {freedom}"] = far(packing, torch.distributions.StudentT(float(freedom)).sample(side))
    matrices = [info for info in open_checkpoint(model_path(model)).tensors.values() if len(info.shape) == 2]
    with SliceReader() as reader:
        for info in matrices:
            rows = [piece.bfloat16() for _, piece in reader.pieces(info, None, None)]
            found[info.name] = far(packing, torch.cat(rows))
    return found


def main() -> None:
    parser = options(__doc__, rounds=15)
    parser.add_argument("--model", help="directory or .gguf (default: the embedded model)")
    args = parser.parse_args()

    def measured(pools: dict[str, Pool]) -> dict[str, Any]:
        found = shares(Packing(next(iter(pools.values()))), args.model)
        return {"far": found, "products": {variant: products(pool, args.rounds) for variant, pool in pools.items()}}

    run(args, measured)


if __name__ == "__main__":
    run_command(main)
