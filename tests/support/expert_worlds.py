"""Loads for tests of expert balancing: recorded (a few layers of four traces) and drawn; and plain enumeration."""

from __future__ import annotations

import gzip
import json
from itertools import combinations, product
from pathlib import Path

import numpy as np

from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import FloatArray, IntArray
from weft.parallel.experts.statistics.metric import balance

DATA = Path(__file__).resolve().parents[1] / "parallel" / "experts" / "data"
TRACES = ("prefill_in1024", "prefill_in4096", "decode_in1000out1000", "decode_in500out1500")
TWELVE = np.array(
    [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]],
    dtype=np.float64,
)
"""The worked example of the public greedy: 16 slots, 4 groups, 2 nodes, 8 ranks."""


def trace_file(name: str) -> Path:
    """Statistics of eight layers of DeepSeek-V3, 256 experts each; the first layer is dense and has no load."""
    return DATA / f"{name}.json.gz"


def trace(name: str) -> FloatArray:
    """Loads of the seven layers that have any."""
    with gzip.open(trace_file(name), "rt") as file:
        loads = np.array(json.load(file)["logical_count"], dtype=np.float64)
    return loads[loads.any(axis=1)]


def skewed(kind: str, layers: int, experts: int, seed: int = 0) -> FloatArray:
    """Drawn loads: "zipf", "lognormal", or "sparse" (half of the experts idle)."""
    random = np.random.default_rng(seed)
    if kind == "zipf":
        ranks = np.arange(1, experts + 1) ** -0.8
        return np.stack([random.permutation(ranks) for _ in range(layers)])
    loads = random.lognormal(0, 1, (layers, experts))
    return loads * (random.random((layers, experts)) < 0.5) + 1e-9 if kind == "sparse" else loads


def best_by_enumeration(loads: FloatArray, shape: SlotShape) -> float:
    """The balance of the best placement of one layer, loads [experts], no expert twice on a rank; all are tried."""
    sets = list(combinations(range(shape.experts), shape.slots_per_rank))
    held = np.zeros((len(sets), shape.experts))
    for row, members in zip(held, sets, strict=True):
        row[list(members)] = 1
    best = 0.0
    for choice in product(range(len(sets)), repeat=shape.ranks - 1):
        first = held[list(choice)]
        counts = first.sum(axis=0) + held
        legal = (counts > 0).all(axis=1)
        shares = loads / np.maximum(counts, 1)
        tops = np.maximum((shares @ first.T).max(axis=1, initial=0), (shares * held).sum(axis=1))
        if legal.any():
            best = max(best, float(loads.sum() / shape.ranks / tops[legal].min()))
    return best


def balance_of(table: IntArray, loads: FloatArray, ranks: int) -> float:
    """Mean balance of [layers, slots] or [layers, ranks, slots per rank]."""
    placement = ExpertPlacement(table.reshape(len(loads), -1), loads.shape[1], ranks)
    return balance(placement, loads).mean
