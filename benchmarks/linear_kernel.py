"""Products whose rows do not depend on their number: the C++ kernel against torch's forms of the same promise.

python benchmarks/linear_kernel.py [--threads N] [--out FILE.json]: SmolLM2-135M's shapes, cold weights (copies of a
shape are used in turn), microseconds a call, best and median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from about import about
from torch import Tensor

from weft.ops.linear import forms
from weft.ops.native_kernels import LinearKernel

SHAPES = {"qkv": (960, 576), "o": (576, 576), "gate_up": (3072, 576), "down": (576, 1536), "head": (49152, 576)}
ROWS = (1, 2, 4, 8, 32, 256, 1024)
COPIES = 8
Product = Callable[[Tensor, Tensor, None], Tensor]


def measure(products: dict[str, Product], x: Tensor, weights: list[Tensor], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of each product, in interleaved rounds over all weights after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in products}
    for index in range(rounds + 1):
        for name, product in products.items():
            started = time.perf_counter()
            for weight in weights:
                product(x, weight, None)
            if index:
                times[name].append(1e6 * (time.perf_counter() - started) / len(weights))
    return {name: {"best": round(min(t), 1), "median": round(statistics.median(t), 1)} for name, t in times.items()}


def run_dtype(dtype: torch.dtype, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    kernel = LinearKernel.find(dtype)
    if kernel is None:
        raise SystemExit("the C++ kernel is not built: python -m weft.native.build")
    library = forms(dtype, torch.device("cpu"))[0]
    products: dict[str, Product] = {
        "kernel": kernel,
        f"torch, {library.name}": library,
        "F.linear": torch.nn.functional.linear,
    }
    found = {}
    for name, shape in SHAPES.items():
        weights = [torch.randn(shape).to(dtype) for _ in range(1 if name == "head" else COPIES)]
        for rows in ROWS if name != "head" else ROWS[:5]:
            result = measure(products, torch.randn(rows, shape[1]).to(dtype), weights, rounds)
            found[f"{name} of {rows} rows"] = result
            shown = ", ".join(f"{what} {us['best']:.0f} ({us['median']:.0f})" for what, us in result.items())
            print(f"{dtype} {name} {shape[0]}x{shape[1]}, {rows} rows: us best (median): {shown}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    dtypes = (torch.float32, torch.bfloat16)
    record = {
        "benchmark": "linear_kernel",
        "unit": "us per call",
        "threads": args.threads,
        "rounds": args.rounds,
        "about": about(),
        "results": {str(dtype).removeprefix("torch."): run_dtype(dtype, args.rounds) for dtype in dtypes},
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
