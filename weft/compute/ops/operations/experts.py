"""Operations of routed experts. Shapes: N rows, E experts, k choices a row, H hidden.

Choices [N, 2 k] are what ROUTE gives: a row's experts as numbers, best first, then their weights. Slots are numbers of
this rank's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.compute.native.records import Epilogue
from weft.compute.ops.native.calls import Call, Handle, Sink
from weft.compute.ops.native.packed import PackedSlots, packed_slots
from weft.compute.ops.operations.attention import WEIGHTS
from weft.compute.ops.operations.declare import N, NoCallError, OpCode, P, numbers, operation, pointers
from weft.compute.ops.operations.dense import EPILOGUE, SCALE
from weft.compute.ops.slot_tables import SlotTables
from weft.compute.ops.weights import Weight
from weft.parallel.arch.config import MoEConfig

TOP_K, SIGMOID, NORMALIZE, GROUPS, TOP_GROUPS, GROUP_BEST = numbers(6)
"""Of ROUTE; the first of PLACE and COMBINE too."""
CORRECTION = P(0)
"""Of ROUTE."""
MOST, HERE_LO, HERE_HI, EXPERTS = numbers(5, begin=1)
"""Of PLACE: replicas of an expert at most, the slots here, experts of the model."""
REPLICAS, SLOT_OF, TALLY, ENDS, ORDER, SORTED_WEIGHTS = pointers(6)
"""Of PLACE: what it reads, what it counts, what it gives beside `out`."""
TP, EP, PLACE_IN_BLOCK, FIRST_RANK = numbers(9, begin=5)
"""Of DISPATCH, besides those of PLACE: the block, this rank in it, its first rank."""
SENT_ROWS, SENT_ANSWERS, ARRIVED_WEIGHTS, SIZES, EDGES = pointers(11, begin=6)
"""Of DISPATCH, besides those of PLACE; routed.h says what they hold."""
ADDENDS = N(1)
"""Of COMBINE: ranks that each give a part of every answer; 0 counts as 1."""
SLOTS, COUNT = N(0), P(0)
"""Of GROUPED; of GATHER and ROUTED: how many rows."""


class ExpertCodes:
    """Their numbers."""

    ROUTE = OpCode(
        11,
        "out[r] = choices by the router's logits in in0[r]; see experts.h",
        "kernels/moe/experts.h:route",
        (CORRECTION,),
        on_grid=True,
    )
    PLACE = OpCode(
        12,
        "out[r] = where the answers to the choices in in0[r] will lie, sorted by slot",
        "kernels/moe/experts.h:place_choices",
    )
    GATHER = OpCode(13, "rows of in0 in the order of p[ORDER]", "kernels/moe/experts.h:gather_rows")
    GROUPED = OpCode(
        14,
        "rows sorted by slot, each slot's times its own weight",
        "kernels/gemm/gemm_grouped.h:grouped_linear",
    )
    COMBINE = OpCode(
        15, "out[r] = weighted sum of the answers in in0 at the places in1[r]", "kernels/moe/experts.h:combine"
    )
    DISPATCH = OpCode(
        16,
        "out[r] = where the answers to the own choices arrive, by the block's choices in in0; see routed.h",
        "kernels/moe/routed.h:plan_dispatch",
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """Choices sorted by slot. places [N, k]: where the answer to each will lie, -1: not here; order: the row of each
    place; weights: fp64, of each place; ends [2 * slots]: places up to each slot's last (then scratch). Of `order` and
    `weights` only as many are filled as there are choices here."""

    places: Handle
    order: Handle
    weights: Handle
    ends: Tensor
    k: int

    @property
    def count(self) -> Tensor:
        """[1]: how many places there are."""
        last = len(self.ends) // 2
        return self.ends[last - 1 : last]


class ExpertCalls:
    """Calls that several operations make. `exact`: of the exact model, whose rows are weighted before `down`."""

    sink: Sink
    exact: bool

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> Tensor:
        """logits [N, E] -> choices, in fp32 at least; see `weft.compute.ops.reference.routing`."""
        wide = torch.promote_types(logits.dtype, torch.float32)
        out: Tensor = self.sink.new(logits, 2 * moe.top_k, wide)
        tensors = {CORRECTION: None if correction is None else correction.to(wide)}
        self.sink.emit(Call(ExpertCodes.ROUTE, out, (logits,), _routing(moe), {SCALE: moe.scale}, tensors))
        return out

    def place(self, choices: Handle, k: int, slots: int, tables: SlotTables | None = None) -> Placed:
        """Sorts choices by the `slots` here, as `tables` say; without tables they are slots, below 0 none."""
        found = self.placed(choices, k, slots)
        self.sink.emit(placing(Call(ExpertCodes.PLACE, found.places, (choices,)), found, tables))
        return found

    def placed(self, choices: Handle, k: int, slots: int) -> Placed:
        """Room for `choices` sorted by slot."""
        places, order = (self.sink.new(choices, k, torch.int64) for _ in range(2))
        weights = self.sink.new(choices, k, torch.float64)
        return Placed(places, order, weights, torch.zeros(2 * slots, dtype=torch.int64), k)

    def answers(
        self, x: Handle, columns: int, placed: Placed, gate_up: PackedSlots, down: PackedSlots, dtype: torch.dtype
    ) -> Handle:
        """[places, H]: what each place's slot answers to its row of x [N, `columns`]."""
        rows, hidden, out = (
            self.sink.new(placed.places, width, dtype, placed.k)
            for width in (columns, gate_up.slots[0].shape[0] // 2, down.slots[0].shape[0])
        )
        self.gather(rows, x, placed.count, placed.order)
        self.grouped(rows, placed.ends, gate_up, hidden, Epilogue.SILU_MUL_OF, placed.weights)
        return self.grouped(hidden, placed.ends, down, out, Epilogue.STORE, placed.weights)

    def gather(self, out: Handle, rows: Handle, count: Tensor, order: Handle) -> None:
        """The first `count` of `out` are the rows with the numbers `order`."""
        self.sink.emit(Call(ExpertCodes.GATHER, out, (rows,), {}, {}, {COUNT: count}, {ORDER: order}))

    def grouped(
        self,
        x: Handle,
        ends: Tensor,
        weights: PackedSlots,
        out: Handle,
        epilogue: Epilogue = Epilogue.STORE,
        row_weights: Handle | None = None,
    ) -> Handle:
        """out [places, columns] = x [places, in] @ weight.T by `epilogue`, for rows sorted by slot: those from
        ends[s - 1] to ends[s] (int64) times slot s's. `row_weights`: fp64, by which the exact model weighs rows."""
        sizes = {EPILOGUE: epilogue, SLOTS: len(weights.slots)}
        buffers = {} if row_weights is None else {SORTED_WEIGHTS: row_weights}
        self.sink.emit(Call(ExpertCodes.GROUPED, out, (x,), sizes, {}, {WEIGHTS: weights, ENDS: ends}, buffers))
        return out

    def combine(
        self,
        answers: Handle,
        places: Handle,
        weights: Handle,
        out: Handle,
        k: int,
        more: Mapping[N, int] | None = None,
    ) -> Handle:
        """out [N, H]: sums of each row's answers, weighted, in the order of its choices. `more`: further numbers."""
        buffers = {} if self.exact else {SORTED_WEIGHTS: weights}
        self.sink.emit(Call(ExpertCodes.COMBINE, out, (answers, places), {TOP_K: k, **(more or {})}, {}, {}, buffers))
        return out


class ExpertOps(ABC):
    """What layers call."""

    calls: ExpertCalls

    @operation()
    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> tuple[Tensor, Tensor]:
        """Router logits [N, E] -> (experts [N, k], weights [N, k] in fp32 at least), best first, ties: the lowest
        expert. Experts are int64, and numbers of the weights' dtype in a tape."""
        choices = self.calls.route(logits, correction, moe)
        return choices[:, : moe.top_k], choices[:, moe.top_k :]

    @operation()
    def expert_weights(self, gate_up: Weight, down: Weight, slots: int) -> tuple[Weight, Weight]:
        """The weights of `slots` experts, prepared by `prepare_slots`, in the form that `routed` takes; called once, at
        start."""
        if isinstance(gate_up, PackedSlots) and isinstance(down, PackedSlots):
            return gate_up, down
        raise NoCallError("routed experts that are not packed")

    @operation()
    def routed(
        self, x: Tensor, experts: Tensor, weights: Tensor, tables: SlotTables, gate_up: Weight, down: Weight
    ) -> Tensor:
        """[N, H]: the weighted sum of the answers of the slots here to x [N, H], in the order of a row's choices;
        experts and weights [N, k] as `route` gives them, for all rows of the block. Zero rows where no slot is here."""
        gate_up, down = packed_slots(gate_up), packed_slots(down)
        choices, k, calls = self.calls.sink.beside(experts, weights), experts.shape[1], self.calls
        placed = calls.place(choices, k, len(gate_up.slots), tables)
        answers = calls.answers(x, x.shape[1], placed, gate_up, down, x.dtype)
        out: Tensor = calls.sink.new(choices, down.slots[0].shape[0], x.dtype)
        calls.combine(answers, placed.places, placed.weights, out, k)
        return out

    @abstractmethod
    def expert_answers(self, x: Tensor, slots: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        """[N, k, H]: MLP of slot slots[N, k] (int64; -1: not here, zeros) on x [N, H]. To be added up by `weighted`,
        which knows whether weights [N, k] are in the answers already."""

    @abstractmethod
    def weighted(self, answers: Tensor, weights: Tensor) -> Tensor:
        """Sum over k of weights [N, k] * answers [N, k, H], in fp32 at least and in the order of the choices."""


def placing(call: Call, placed: Placed, tables: SlotTables | None) -> Call:
    """The call with what each needs that sorts choices by slot."""
    slots = len(placed.ends) // 2
    call.numbers = {**call.numbers, TOP_K: placed.k, HERE_LO: 0, HERE_HI: slots}
    call.tensors = {**call.tensors, ENDS: placed.ends}
    call.buffers = {**call.buffers, ORDER: placed.order, SORTED_WEIGHTS: placed.weights}
    if tables is not None:
        (lo, hi), (experts, most) = tables.here, tables.slot_of.shape
        call.numbers = {**call.numbers, HERE_LO: lo, HERE_HI: hi, EXPERTS: experts, MOST: most}
        call.tensors = {**call.tensors, REPLICAS: tables.replicas, SLOT_OF: tables.slot_of, TALLY: tables.tally}
    return call


def _routing(moe: MoEConfig) -> dict[N, int]:
    """ROUTE's numbers by their index."""
    return {
        TOP_K: moe.top_k,
        SIGMOID: moe.score == "sigmoid",
        NORMALIZE: moe.normalize,
        GROUPS: moe.groups,
        TOP_GROUPS: moe.top_groups,
        GROUP_BEST: moe.group_best,
    }
