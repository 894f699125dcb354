"""The seam between a layer's rows and its routed experts, wherever those lie.

A dispatcher takes rows in the residual stream's placement and gives the experts' answers in the same. What it moves on
the way are the boundaries that `layout.boundaries` declares for its form: no other collective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from weft.model.layers import Experts
from weft.parallel.layout.rows import RowTable


class TokenDispatcher(ABC):
    """One rank's end, for all layers. `name`: the form, as `experts.dispatch` says it."""

    name: str

    @abstractmethod
    def run(self, experts: Experts, x: Tensor, rows: RowTable) -> Tensor:
        """x [N, H] of the residual stream -> the weighted sum of each row's experts [N, H], in the same placement.

        `rows`: rows of every rank of the stage; all ranks of an expert block must call, with or without rows.
        """
