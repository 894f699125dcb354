"""All-gather dispatch: every rank of an expert block gets every row of the block, and adds what its own slots say.

Rows arrive by the transition to FULL(tp * ep); each rank routes all of them, computes the choices whose slot it holds
and gives an addend; the transition from PARTIAL(tp * ep) adds these in rank order. A row's sum therefore depends on
which ranks hold its experts, and not on the rows beside it as long as every expert has one slot.
"""

from __future__ import annotations

from torch import Tensor

from weft.model.layers import Experts
from weft.model.models.dispatch.base import TokenDispatcher
from weft.model.models.transitions import Transitions
from weft.parallel.layout.rows import RowTable


class AllGather(TokenDispatcher):
    """Two collectives a layer, whose sizes follow from the row table alone; none where the block is one rank."""

    name = "all_gather"

    def __init__(self, transitions: Transitions) -> None:
        self._transitions = transitions

    def run(self, experts: Experts, x: Tensor, rows: RowTable) -> Tensor:
        """As `TokenDispatcher.run`."""
        gathered = self._transitions.move("experts.in", x, rows)
        return self._transitions.move("experts.out", experts.forward(gathered), rows)
