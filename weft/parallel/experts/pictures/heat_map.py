"""Heat maps as numbers: a row for each layer, a column for each expert or rank, values relative to the layer's mean.

weft/cli/view/experts.py draws them on terminals, weft/parallel/experts/pictures/draw.py into files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.statistics.loads import FloatArray, IntArray
from weft.parallel.experts.statistics.metric import rank_loads


@dataclass(frozen=True, eq=False, slots=True)
class HeatMap:
    """values [rows, columns]; layers names the rows; `column` and `value` say what columns and values are."""

    title: str
    column: str
    value: str
    layers: tuple[int, ...]
    values: FloatArray

    def binned(self, columns: int) -> FloatArray:
        """At most so many columns, [rows, columns], each the largest of its run: a hot spot is never averaged away."""
        width = self.values.shape[1]
        if width <= columns:
            return self.values
        starts = (np.arange(columns) * width) // columns
        return cast(FloatArray, np.maximum.reduceat(self.values, starts, axis=1))


def load_map(loads: FloatArray) -> HeatMap:
    """Loads of experts / the layer's mean; layers without load are left out."""
    rows = _loaded(loads)
    values = loads[rows] / loads[rows].mean(axis=1, keepdims=True)
    return HeatMap("load of experts", "expert", "load / mean", _names(rows), values)


def rank_map(placement: ExpertPlacement, loads: FloatArray) -> HeatMap:
    """Expected loads of ranks / the layer's mean; layers without load are left out."""
    rows = _loaded(loads)
    ranks = rank_loads(placement, loads)[rows]
    values = cast(FloatArray, ranks / ranks.mean(axis=1, keepdims=True))
    return HeatMap("load of ranks", "rank", "load / mean", _names(rows), values)


def replica_map(placement: ExpertPlacement) -> HeatMap:
    """Replicas of every expert."""
    values = placement.counts().astype(np.float64)
    return HeatMap("replicas of experts", "expert", "replicas", tuple(range(placement.layers)), values)


def _loaded(loads: FloatArray) -> IntArray:
    return cast(IntArray, np.flatnonzero(loads.any(axis=1)))


def _names(rows: IntArray) -> tuple[int, ...]:
    return tuple(int(row) for row in rows)
