"""Times products on this machine, with the kernels and the threads that a rank with all cores has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median

import torch

from weft.base.settings import EngineConfig
from weft.compute.ops import make_ops
from weft.compute.ops.weights import Use, Weight
from weft.runtime.worker.numerics import numerics_of
from weft.tools.calibrate.kept import ROWS, MeasuredProduct, ProductShape

REPEATS = 7
"""Of a product, after one that is not counted; their median is kept."""
COLD_BYTES = 256 << 20
"""Weights of one shape that are multiplied by in turn: more than caches keep, as those of a whole model are."""
MOST_COPIES = 24


def timed(shapes: Sequence[ProductShape], engine: EngineConfig, threads: int) -> Iterator[MeasuredProduct]:
    """One after the other. `engine`: its dtype is named."""
    torch.set_num_threads(threads)
    numerics = numerics_of(engine)
    ops = make_ops(numerics, "cpu")
    for shape in shapes:
        plain = torch.randn(shape.columns, shape.depth).to(numerics.dtype)
        whole = plain.numel() * plain.element_size()
        copies = max(2, min(MOST_COPIES, COLD_BYTES // whole))
        weights = [ops.prepare(plain.clone(), Use.LINEAR) for _ in range(copies)]
        nbytes = weights[0].nbytes
        times = []
        for rows in ROWS:
            x = torch.randn(rows, shape.depth).to(numerics.dtype)
            times.append(_seconds(ops.linear, x, weights))
        yield MeasuredProduct(
            shape.depth, shape.columns, engine.dtype, engine.quantization, threads, int(nbytes), ROWS, tuple(times)
        )


def _seconds(linear: object, x: torch.Tensor, weights: Sequence[Weight]) -> float:
    assert callable(linear)
    found = []
    linear(x, weights[-1], None)
    for number in range(REPEATS):
        started = time.perf_counter()
        linear(x, weights[number % len(weights)], None)
        found.append(time.perf_counter() - started)
    return median(found)
