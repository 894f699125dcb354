"""Plans a placement over all ranks at once: replication, packing, and a search of both together where one alone is not
enough. Without nodes, groups or a current placement.
"""

from __future__ import annotations

import numpy as np

from weft.parallel.experts.balancing.packing import RankPacking, pack
from weft.parallel.experts.balancing.pairing import pair
from weft.parallel.experts.balancing.recount import MOST_SLOTS, recount
from weft.parallel.experts.balancing.repair import repair
from weft.parallel.experts.balancing.replication import replicas, replicate
from weft.parallel.experts.statistics.loads import FloatArray, IntArray

GOOD = 0.997
"""Layers below this balance are searched further, replica counts and places together, where there are replicas at
all."""


def plan(loads: FloatArray, slots: int, ranks: int) -> IntArray:
    """The expert of each slot, [layers, ranks, slots per rank], ascending on each rank; loads [layers, experts], each
    layer with some load. Deterministic; the scale of a layer's loads does not matter."""
    if slots == 2 * ranks:
        packing = pair(loads, ranks)
    else:
        packing = pack(*replicas(loads, replicate(loads, slots, cap=ranks)), ranks)
    if slots > loads.shape[1] and slots > ranks:
        _search_further(packing, loads)
    return np.sort(packing.owners, axis=2)


def _search_further(packing: RankPacking, loads: FloatArray) -> None:
    """Moves replicas from expert to expert in the layers that packing alone left uneven."""
    totals = packing.totals
    layers, ranks, width = packing.owners.shape
    for layer in np.flatnonzero(totals.mean(axis=1) < GOOD * totals.max(axis=1)):
        owners = packing.owners[layer]
        if ranks * width <= MOST_SLOTS:
            packing.owners[layer] = recount(loads[layer], owners)
        elif width > 2:
            packing.owners[layer] = repair(loads[layer], owners, budget=owners.size)
