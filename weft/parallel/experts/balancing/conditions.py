"""Necessary conditions on replica counts so that no rank carries more than a given load, with Lagrangian prices: for
proofs that no counts exist, and for good counts to start a search from.

Let `top` be the load that no rank may exceed and n the slots of a rank. A replica with share v > top / 2 is heavy: no
two heavy replicas fit on one rank, and each of the n - 1 others on its rank has a share of at most top - v. So for
every v:

    (replicas with share <= top - v)  -  (n - 1) * (replicas with share >= v)  >=  0                               (v)

A replica count c of an expert with load w adds c, -(n - 1) c or 0 to condition (v), by where w / c falls. If every
condition gets a price >= 0 and every extra replica a price >= 0, each expert can choose its best count alone; the sum
of these best values bounds what any counts can reach. Where it is below zero, no counts satisfy all conditions: a
proof. Otherwise the choices are good counts to start a search from. For n = 2 the conditions are also sufficient, as
the largest share can always go with the smallest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from weft.parallel.experts.statistics.loads import FloatArray, IntArray

START_PRICES = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Prices of an extra replica that are tried where a single condition is to give the proof."""
ROUNDING = 1e-12
CERTAIN = -1e-3
"""Values are sums of small integers times prices that add up to 1; below this one they are negative beyond rounding."""
FORBIDDEN = np.float32(-1e9)


class Conditions:
    """The conditions of one layer for one `top`: loads [experts], at most `values` of the v and `most` replicas each.

    Fewer `values` are fewer conditions: still a valid bound, only a weaker one. `most` must be slots - experts + 1 or
    more for a proof; a search may look at less.
    """

    def __init__(self, loads: FloatArray, slots: int, width: int, top: float, *, most: int, values: int) -> None:
        self.spare = slots - len(loads)
        self.extra = np.arange(most, dtype=np.float32)
        shares = loads[:, None] / np.arange(1, most + 1)
        slack = top * ROUNDING
        self.dead = shares > top + slack
        heavy = np.unique(shares[(shares > top / 2) & ~self.dead])
        if len(heavy) > values:
            heavy = heavy[np.linspace(0, len(heavy) - 1, values).round().astype(np.int64)]
        self.heavy: FloatArray = heavy
        light = shares[..., None] <= top - self.heavy + slack
        weight = (self.extra + 1)[:, None]
        large = shares[..., None] >= self.heavy - slack
        self.terms: npt.NDArray[np.float32] = weight * (light.astype(np.float32) - (width - 1) * large)

    def impossible(self, rounds: int) -> bool:
        """True if it is proven that no counts satisfy all conditions; False proves nothing."""
        if self.too_few_slots():
            return True
        if not len(self.heavy):
            return False
        return self.one_condition_fails() or any(value < CERTAIN for value, _ in self.priced(rounds))

    def too_few_slots(self) -> bool:
        """Even cut to `top` or just below, the loads need more replicas than there are slots."""
        return bool(self.dead.all(axis=1).any() or self.dead.argmin(axis=1).sum() > self.spare)

    def one_condition_fails(self) -> bool:
        """A single condition cannot be satisfied, whatever the others are."""
        for price in START_PRICES:
            values = self.terms - np.float32(price) * self.extra[:, None]
            values[self.dead] = FORBIDDEN
            if (values.max(axis=1).sum(axis=0) + price * self.spare < CERTAIN).any():
                return True
        return False

    def priced(self, rounds: int) -> Iterator[tuple[float, IntArray]]:
        """(bound, counts chosen at these prices) of each round; prices rise where the choices break a condition."""
        if not len(self.heavy):
            return
        experts = np.arange(len(self.terms))
        prices = np.full(len(self.heavy), 1 / len(self.heavy))
        extra_price = 1.0
        for turn in range(rounds):
            # einsum stays in this thread; a matrix product wakes the library's own, which costs more than it gains
            values = np.einsum("eck,k->ec", self.terms, prices.astype(np.float32))
            values -= np.float32(extra_price) * self.extra
            values[self.dead] = FORBIDDEN
            chosen = values.argmax(axis=1)
            yield float(values[experts, chosen].sum()) + extra_price * self.spare, cast(IntArray, chosen + 1)
            kept = self.terms[experts, chosen].sum(axis=0).astype(np.float64)
            left = self.spare - int(chosen.sum())
            step = 1 / np.sqrt(1 + turn)
            prices *= np.exp(-step * kept / max(float(np.abs(kept).max()), ROUNDING))
            prices /= prices.sum()
            extra_price = max(0.0, extra_price - 0.2 * step * left / (abs(left) + 5))
