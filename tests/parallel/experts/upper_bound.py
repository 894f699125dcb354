"""A balance that no placement of a layer can exceed, derived layer by layer.

`top` is a load that no rank exceeds; whatever proves a `top` impossible bounds the balance by mean / top. Proofs used:

1. The heaviest rank carries at least the mean, so balance <= 1.
2. Every expert must be cut into replicas of at most `top`; if that takes more slots than there are, `top` is
   impossible.
3. Replicas above top / 2 are alone among their like on their rank and need light companions
   (weft/parallel/experts/balancing/conditions.py).
4. Without replicas (slots = experts), for the m heaviest experts: either two of them share a rank, which then carries
   at least the two lightest of the m and the n - 2 lightest experts of all; or they are on m ranks, which carry all m
   and at least the m (n - 1) lightest experts, so that one of these ranks carries the m-th part. `top` must be at
   least the smaller of the two.

The bound is found by bisection between the mean and a `top` that is certainly enough. It may be above the best balance.
"""

from __future__ import annotations

import numpy as np

from weft.parallel.experts.balancing.conditions import Conditions
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import FloatArray, normalized

HALVINGS = 14
PRICE_ROUNDS = 100
MOST_CONDITIONS = 96


def upper_bound(loads: FloatArray, shape: SlotShape) -> FloatArray:
    """The bound on the balance of each layer, [layers], in 0 .. 1; loads [layers, experts]. Nodes and groups are not
    counted: the bound holds with and without them."""
    return np.array([layer_bound(layer, shape) for layer in normalized(loads)])


def layer_bound(loads: FloatArray, shape: SlotShape) -> float:
    """The bound of one layer; loads [experts], with a sum above 0."""
    mean = float(loads.sum()) / shape.ranks
    low = max(mean, _without_replicas(loads, shape)) if shape.slots == shape.experts else mean
    high = float(loads.max()) + mean
    if not _impossible(loads, shape, low):
        return mean / low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _impossible(loads, shape, middle) else (low, middle)
    return mean / low


def _impossible(loads: FloatArray, shape: SlotShape, top: float) -> bool:
    """Proofs 2 and 3."""
    needed = np.maximum(np.ceil(loads / top - 1e-9), 1).sum()
    if needed > shape.slots:
        return True
    if shape.slots_per_rank == 1:
        return False
    most = shape.slots - shape.experts + 1
    conditions = Conditions(loads, shape.slots, shape.slots_per_rank, top, most=most, values=MOST_CONDITIONS)
    return conditions.impossible(PRICE_ROUNDS)


def _without_replicas(loads: FloatArray, shape: SlotShape) -> float:
    """Proof 4: the least load of the heaviest rank, by the strongest m."""
    ordered = np.sort(loads)[::-1]
    width = shape.slots_per_rank
    lightest = np.concatenate(([0.0], np.cumsum(ordered[::-1])))
    count = np.arange(1, shape.ranks + 1)
    apart = (np.cumsum(ordered)[: shape.ranks] + lightest[count * (width - 1)]) / count
    if width == 1:
        return float(ordered[0])
    together = ordered[:-1] + ordered[1:] + lightest[width - 2]
    return float(max(apart[0], np.minimum(apart[1:], together[: shape.ranks - 1]).max(initial=0.0)))
