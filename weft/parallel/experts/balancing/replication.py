"""Replica counts, by splitting the expert with the largest share; and the replicas as items to pack.

`cap`: an expert gets at most one replica a rank. All layers at once.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from weft.parallel.experts.statistics.loads import FloatArray, IntArray


def replicate(loads: FloatArray, slots: int, cap: int) -> IntArray:
    """Replicas [layers, experts] that add up to `slots` a layer, each in 1 .. cap; loads [layers, experts].

    One replica after another goes to the largest load / replicas, ties to the lowest expert: this makes the largest
    share of any replica as small as it can be.
    """
    layers, experts = loads.shape
    counts = np.ones((layers, experts), dtype=np.int64)
    shares = np.where(cap > 1, loads, -1.0)
    rows = np.arange(layers)
    for _ in range(slots - experts):
        chosen = shares.argmax(axis=1)
        counts[rows, chosen] += 1
        now = counts[rows, chosen]
        shares[rows, chosen] = np.where(now < cap, loads[rows, chosen] / now, -1.0)
    return counts


def replicas(loads: FloatArray, counts: IntArray) -> tuple[IntArray, FloatArray]:
    """(experts, shares) of all replicas, [layers, slots], largest share first, replicas of one expert side by side."""
    layers, experts = loads.shape
    owners = np.tile(np.arange(experts), layers).repeat(counts.ravel()).reshape(layers, -1)
    shares = np.take_along_axis(loads / counts, owners, axis=1)
    order = np.argsort(-shares, axis=1, kind="stable")
    return (
        cast(IntArray, np.take_along_axis(owners, order, axis=1)),
        cast(FloatArray, np.take_along_axis(shares, order, axis=1)),
    )
