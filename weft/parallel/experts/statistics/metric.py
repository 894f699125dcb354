"""The balance of a placement under loads: how near every rank is to the mean.

balance of a layer = mean over ranks of expected load / maximum over ranks, each replica carrying an even share of its
expert's load. 1 is perfect. Layers without load have no balance and do not count in means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.statistics.loads import FloatArray, check_shape


@dataclass(frozen=True, slots=True)
class Balancedness:
    """Balance of every layer, None where a layer has no load; mean and min are over layers that have one."""

    per_layer: tuple[float | None, ...]

    @property
    def known(self) -> list[float]:
        """The layers that have load."""
        return [value for value in self.per_layer if value is not None]

    @property
    def mean(self) -> float:
        """Mean over layers."""
        return float(np.mean(self.known))

    @property
    def min(self) -> float:
        """The worst layer."""
        return min(self.known)


def slot_loads(placement: ExpertPlacement, loads: FloatArray) -> FloatArray:
    """Expected load of every slot, [layers, slots]; loads [layers, experts]."""
    check_shape(loads, placement.layers, placement.experts)
    shares = loads / placement.counts()
    return cast(FloatArray, np.take_along_axis(shares, placement.phy2log, axis=1))


def rank_loads(placement: ExpertPlacement, loads: FloatArray) -> FloatArray:
    """Expected load of every rank, [layers, ranks]; in the unit of `loads`."""
    slots = slot_loads(placement, loads)
    return cast(FloatArray, slots.reshape(placement.layers, placement.ranks, -1).sum(axis=2))


def balance(placement: ExpertPlacement, loads: FloatArray) -> Balancedness:
    """Balance of every layer; loads [layers, experts]. Raises ConfigError where the shapes differ."""
    return balance_of_ranks(rank_loads(placement, loads))


def balance_of_ranks(ranks: FloatArray) -> Balancedness:
    """Balance from the loads of ranks, [layers, ranks]."""
    largest = ranks.max(axis=1)
    means = ranks.mean(axis=1)
    return Balancedness(tuple(float(mean / top) if top > 0 else None for mean, top in zip(means, largest, strict=True)))
