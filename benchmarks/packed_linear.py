"""All products of a decoder step with packed weights, in bf16, int8 and int4, and these with rows rounded to 8 bits
(`x 8`), against torch's on plain ones.

python benchmarks/packed_linear.py [--threads N] [--models smollm2 ...] [--out FILE.json]: milliseconds for the products
of all layers (and the head, up to 64 rows), GB/s of weights and GFLOP/s, beside the read bandwidth measured before each
row. `onednn` is torch's prepacked linear, where this build of torch has it.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from about import about
from built import step_library
from command import positive, result_file, run_command, whole
from timing import best_and_median, filling
from torch import Tensor

from weft.native.records import EPILOGUE, WEIGHT, Epilogue, InstructionRecord, Op, OperandRecord, StepRecord, WeightKind
from weft.native.step_library import Pool, Program
from weft.ops.arena import Arena
from weft.ops.packed import DTYPES, PackedWeight, Packing

Shape = tuple[str, int, int]
MODELS: dict[str, tuple[int, tuple[int, ...]]] = {
    "smollm2-135m": (30, (576, 960, 576, 1536, 49152)),
    "llama-1b": (4, (2048, 3072, 2048, 8192, 128256)),
    "llama-8b": (2, (4096, 6144, 4096, 14336, 128256)),
}
"""Layers (fewer than the model has, where they do not fit), and hidden, qkv, o, intermediate, vocabulary."""
KINDS = {
    "bf16": (None, False),
    "bf16 in 12": (WeightKind.BF12, False),
    "int8": (WeightKind.INT8, False),
    "int8 x 8": (WeightKind.INT8, True),
    "int4": (WeightKind.INT4, False),
    "int4 x 8": (WeightKind.INT4, True),
}
"""How weights are kept, and whether rows are rounded to 8 bits before they are multiplied."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512)
HEAD_ROWS = 64


def shapes_of(model: str) -> list[Shape]:
    """(name, out, in) of every product, in order."""
    return step_shapes(*MODELS[model])


def step_shapes(layers: int, sizes: tuple[int, ...]) -> list[Shape]:
    """The same, of so many dense layers and `sizes` as in MODELS."""
    hidden, qkv, o, wide, vocabulary = sizes
    layer = [("qkv", qkv, hidden), ("o", hidden, o), ("gate_up", 2 * wide, hidden), ("down", hidden, wide)]
    return layer * layers + [("head", vocabulary, hidden)]


def plain_weights(shapes: list[Shape]) -> list[Tensor]:
    """bf16 [out, in] of every product, random."""
    return [torch.randn(columns, depth).mul_(0.02).bfloat16() for _, columns, depth in shapes]


def packed(pool: Pool, kind: str, shapes: list[Shape], plain: list[Tensor]) -> list[PackedWeight]:
    """The weights as `kind` of KINDS, by the library of `pool`."""
    code, rounds = KINDS[kind]
    arena, packing = Arena(), Packing(pool, rounds)
    return [
        packing.pack(weight, code, interleaved=name == "gate_up", arena=arena)
        for (name, _, _), weight in zip(shapes, plain, strict=True)
    ]


def rates(shapes: list[Shape], weights: list[PackedWeight] | list[Tensor], rows: int, ms: float) -> dict[str, float]:
    """GB/s of weights and GFLOP/s of products of so many rows that took `ms`."""
    used = [
        (n * k, w.nbytes) for (name, n, k), w in zip(shapes, weights, strict=True) if has_head(rows) or name != "head"
    ]
    nbytes, numbers = sum(size for _, size in used), sum(count for count, _ in used)
    return {"weights_gb_s": round(nbytes / ms / 1e6, 1), "gflop_s": round(2 * rows * numbers / ms / 1e6)}


def has_head(rows: int) -> bool:
    """Of a long prompt only a few rows go through the head."""
    return rows <= HEAD_ROWS


def bandwidth() -> float:
    """GB/s of reading 256 MiB with all threads, best of three."""
    block = torch.ones(64 << 20)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        block.sum()
        seconds.append(time.perf_counter() - started)
    return block.nbytes / min(seconds) / 1e9


class Buffers:
    """Rows in and out of every shape, shared by all products of it."""

    def __init__(self, shapes: list[Shape], rows: int) -> None:
        self.x = {depth: torch.randn(rows, depth).bfloat16() for _, _, depth in shapes}
        self.out = {
            name: torch.zeros(min(rows, HEAD_ROWS) if name == "head" else rows, columns)
            for name, columns, _ in shapes
            if name != "gate_up"
        }
        self.out["gate_up"] = torch.zeros(rows, next(n for name, n, _ in shapes if name == "gate_up") // 2).bfloat16()


def program_of(pool: Pool, shapes: list[Shape], weights: list[PackedWeight], buffers: Buffers) -> Program:
    """All products as one program; row register 1 counts the head's rows."""
    code = []
    for (name, _, depth), weight in zip(shapes, weights, strict=True):
        record = InstructionRecord(op=Op.LINEAR, rows=int(name == "head"))
        x, out = buffers.x[depth], buffers.out[name]
        record.inputs[0] = OperandRecord(x.data_ptr(), x.stride(0), DTYPES[x.dtype], depth)
        record.out = OperandRecord(out.data_ptr(), out.stride(0), DTYPES[out.dtype], out.shape[1])
        adds = name in ("o", "down")
        record.n[EPILOGUE] = Epilogue.SILU_MUL_OF if name == "gate_up" else Epilogue.ADD_TO if adds else Epilogue.STORE
        record.p[WEIGHT] = weight.address
        code.append(record)
    return Program(pool, code, None, [buffers, weights])


def repeated(
    pool: Pool, kind: str, shape: Shape, buffers: Buffers, rows: int, matrices: int, times: int
) -> tuple[Callable[[], object], int]:
    """Multiplies `rows` with each of so many random matrices of `shape`, so many times; bytes of weights read."""
    shapes = [shape] * matrices
    weights = packed(pool, kind, shapes, plain_weights(shapes)) * times
    program = program_of(pool, shapes * times, weights, buffers)
    return functools.partial(program.run, step_of(rows)), sum(weight.nbytes for weight in weights)


def step_of(rows: int) -> StepRecord:
    step = StepRecord()
    step.rows[0], step.rows[1] = rows, rows if has_head(rows) else 0
    return step


def torch_products(shapes: list[Shape], plain: list[Tensor], x: dict[int, Tensor], rows: int) -> Callable[[], None]:
    pairs = [
        (x[k][:rows], w) for (name, _, k), w in zip(shapes, plain, strict=True) if has_head(rows) or name != "head"
    ]

    def run() -> None:
        for given, weight in pairs:
            F.linear(given, weight)

    return run


def onednn_products(
    shapes: list[Shape], plain: list[Tensor], x: dict[int, Tensor], rows: int
) -> Callable[[], None] | None:
    """The same with weights in oneDNN's own order; None where torch has no such call."""
    try:
        reorder, product = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
        chosen = [(k, w) for (name, _, k), w in zip(shapes, plain, strict=True) if has_head(rows) or name != "head"]
        packed = [(x[k][:rows], reorder(w, rows)) for k, w in chosen]
    except (AttributeError, RuntimeError):
        return None

    def run() -> None:
        for given, weight in packed:
            product(given, weight, None, "none", [], "")

    return run


def run_model(model: str, pool: Pool, rows: tuple[int, ...], seconds: float) -> list[dict[str, Any]]:
    """One record for each kind and number of rows."""
    shapes = shapes_of(model)
    plain = plain_weights(shapes)
    buffers, found = Buffers(shapes, max(rows)), []
    for kind in KINDS:
        weights = packed(pool, kind, shapes, plain)
        program = program_of(pool, shapes, weights, buffers)
        for count in rows:
            step = step_of(count)
            found.append(record_of(model, kind, count, shapes, weights, lambda s=step, p=program: p.run(s), seconds))
        program.close()
    for name, make in {"F.linear": torch_products, "onednn": onednn_products}.items():
        for count in rows:
            run = make(shapes, plain, buffers.x, count)
            if run is not None:
                found.append(record_of(model, name, count, shapes, plain, run, seconds))
    return found


def record_of(
    model: str,
    kind: str,
    rows: int,
    shapes: list[Shape],
    weights: list[PackedWeight] | list[Tensor],
    run: Callable[[], object],
    seconds: float,
) -> dict[str, Any]:
    reading = bandwidth()
    result: dict[str, Any] = {
        "model": model,
        "kind": kind,
        "rows": rows,
        **best_and_median(filling(run, seconds), 3, "_ms"),
    }
    result |= rates(shapes, weights, rows, result["best_ms"])
    result["read_gb_s"] = round(reading, 1)
    print(
        f"{model} {kind:>8} {rows:4} rows: {result['best_ms']:8.2f} ms (median {result['median_ms']:.2f}),"
        f" {result['weights_gb_s']:6.1f} GB/s of {result['read_gb_s']:.1f}, {result['gflop_s']:5} GFLOP/s",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads())
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rows", type=whole, nargs="+", default=list(ROWS))
    parser.add_argument("--seconds", type=positive, default=0.5)
    parser.add_argument("--out", type=result_file)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    pool, rows = Pool(step_library(), args.threads), tuple(args.rows)
    record = {
        "benchmark": "packed_linear",
        "threads": args.threads,
        "about": about(),
        "products": [each for model in args.models for each in run_model(model, pool, rows, args.seconds)],
    }
    pool.close()
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
