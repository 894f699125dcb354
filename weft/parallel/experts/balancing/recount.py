"""Small layers: searches replica counts by packing every neighbour of the current counts, all in one batch.

A neighbour differs by one replica moved from one expert to another. With few slots each move changes a lot, and
packing is cheap enough to try them all.
"""

from __future__ import annotations

import numpy as np

from weft.parallel.experts.balancing.packing import pack
from weft.parallel.experts.balancing.replication import replicas
from weft.parallel.experts.statistics.loads import FloatArray, IntArray

MOST_SLOTS = 64
"""Layers with more slots have too many neighbours, and finer steps."""
MOST_STEPS = 8
WIDTH = 6
"""Beam width: neighbours kept in each step; the best alone often leads to a dead end."""
LESS = 1 - 1e-9


def recount(loads: FloatArray, owners: IntArray) -> IntArray:
    """The best packing found, [ranks, slots per rank], starting from `owners` of that shape; loads [experts]."""
    ranks = len(owners)
    experts = len(loads)
    counts = np.bincount(owners.ravel(), minlength=experts).astype(np.int64)
    best, top = owners, float((loads / counts)[owners].sum(axis=1).max())
    front, seen = [counts], {counts.tobytes()}
    for _ in range(MOST_STEPS):
        fresh = [c for c in _neighbours(front, ranks) if c.tobytes() not in seen]
        if not fresh or top <= loads.sum() / ranks * (1 + 1e-4):
            break
        seen.update(c.tobytes() for c in fresh)
        rows = np.repeat(loads[None], len(fresh), axis=0)
        packing = pack(*replicas(rows, np.stack(fresh)), ranks)
        tops = packing.totals.max(axis=1)
        order = np.argsort(tops, kind="stable")[:WIDTH]
        front = [fresh[i] for i in order]
        if tops[order[0]] < top * LESS:
            best, top = packing.owners[order[0]], float(tops[order[0]])
    return best


def _neighbours(front: list[IntArray], ranks: int) -> list[IntArray]:
    """Counts that are one move away from any of `front`, each once."""
    found: dict[bytes, IntArray] = {}
    for counts in front:
        for giver in np.flatnonzero(counts > 1):
            for taker in np.flatnonzero(counts < ranks):
                if giver != taker:
                    moved = counts.copy()
                    moved[giver] -= 1
                    moved[taker] += 1
                    found.setdefault(moved.tobytes(), moved)
    return list(found.values())
