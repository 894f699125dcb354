"""Routed experts: the router, and the MLPs of the slots held here.

Shapes: N rows, H hidden, E experts, k choices of a row, S slots here, I intermediate columns here.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weft.compute.ops.interface import Ops
from weft.compute.ops.native.packed import slots_held
from weft.compute.ops.slot_tables import SlotTables
from weft.model.layers.base import Params, tensor_or_none
from weft.parallel.arch.config import MoEConfig
from weft.parallel.layout.placement import Interval


class Experts:
    """One layer's experts over the slots `here` of `slot_map` (the expert of every slot of the block)."""

    def __init__(
        self,
        params: Params,
        name: str,
        moe: MoEConfig,
        slot_map: Sequence[int],
        here: Interval,
        ops: Ops,
        tables: SlotTables | None = None,
    ) -> None:
        """`tables`: of the same layer built before, which this one then follows."""
        self.ops, self.moe = ops, moe
        self.router, self.correction = (
            params[f"{name}.router.weight"],
            tensor_or_none(params, f"{name}.router.correction"),
        )
        self.gate_up, self.down = ops.expert_weights(
            params[f"{name}.experts.gate_up.weight"], params[f"{name}.experts.down.weight"], here[1] - here[0]
        )
        held = self.held[0].device
        self.tables = tables if tables is not None else SlotTables.of(slot_map, moe.num_experts, here, held)

    def place(self, slot_map: Sequence[int]) -> None:
        """From now on slot s holds expert slot_map[s]. The tables keep their memory: a recorded step reads it."""
        self.tables.place(slot_map)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The weights of the slots here, in the form that they are computed with; dim 0 of each counts the slots."""
        return (*slots_held(self.gate_up), *slots_held(self.down))

    def forward(self, x_NH: Tensor) -> Tensor:
        """[N, H] -> addend [N, H]: the choices whose slot is here. Every rank of the block has the same rows."""
        experts, weights = self.route(x_NH)
        return self.ops.routed(x_NH, experts, weights, self.tables, self.gate_up, self.down)

    def answers(self, x_NH: Tensor, slots_N: Tensor, weights_N: Tensor) -> Tensor:
        """One choice a row: [N, H] by the block's slot [N], which is here -> its answer [N, H], for `weigh`."""
        slots, weights = self.tables.local(slots_N)[:, None], weights_N[:, None]
        return self.ops.expert_answers(x_NH, slots, weights, self.gate_up, self.down)[:, 0]

    def weigh(self, answers_NkH: Tensor, weights_Nk: Tensor) -> Tensor:
        """Sum of a row's answers, in the order of its choices: [N, H]."""
        return self.ops.weighted(answers_NkH, weights_Nk)

    def route(self, x_NH: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H] -> (experts [N, k] int64, weights [N, k])."""
        return self.ops.route(self.ops.linear(x_NH, self.router, None), self.correction, self.moe)

    def slots(self, experts_Nk: Tensor) -> Tensor:
        """The block's slot that answers each choice, for all rows of the block [N, k]."""
        return self.tables.slots(experts_Nk)
