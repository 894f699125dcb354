"""The operations of the step library: what each call reads, writes and says. The sink runs it or adds it to a tape.

Shapes as in `weft.ops.base`. Choices [N, 2 k] are what `route` gives: a row's experts as numbers, best first, then
their weights. Slots are numbers of this rank's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.native.operations import (
    BIAS,
    CORRECTION,
    COS_SIN,
    COUNT,
    ENDS,
    EPILOGUE,
    EPS,
    EXPERTS,
    GROUP_BEST,
    GROUPS,
    HEAD_DIM,
    HELD,
    HERE_HI,
    HERE_LO,
    IN_STEP,
    K_NORM,
    KV_HEADS,
    KV_OF_HEAD,
    LO,
    MOST,
    NORM_WEIGHT,
    NORMALIZE,
    ORDER,
    OUT_STEP,
    Q_HEADS,
    Q_NORM,
    REPLICAS,
    ROPE_DIM,
    SCALE,
    SIGMOID,
    SLOT_OF,
    SLOTS,
    SORTED_WEIGHTS,
    TALLY,
    TOP_GROUPS,
    TOP_K,
    WEIGHT,
    WEIGHTS,
    WINDOW,
    Op,
)
from weft.native.records import Epilogue
from weft.ops.attention import AttentionMeta, AttentionSpec, KVCache
from weft.ops.base import Heads, Latents
from weft.ops.native.calls import Call, Handle, Sink
from weft.ops.native.packed import PackedSlots, PackedWeight
from weft.ops.slot_tables import SlotTables


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


class Builder:
    """Calls of one sink. `exact`: of the exact model, whose rows of experts are weighted before `down`."""

    def __init__(self, sink: Sink, exact: bool = False) -> None:
        self.sink, self._exact = sink, exact

    def embedding(self, ids: Tensor, weight: Tensor | PackedWeight, lo: int, dtype: torch.dtype) -> Tensor:
        """See `Ops.embedding`; ids [N, 1], rows in `dtype`."""
        out: Tensor = self.sink.new(ids, weight.shape[1], dtype)
        self.sink.emit(Call(Op.EMBED, out, (ids,), {LO: lo, HELD: weight.shape[0]}, {}, {WEIGHT: weight}))
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops.rms_norm`; x [N, H]."""
        out: Tensor = self.sink.new(x, x.shape[1], weight.dtype)
        self.sink.emit(Call(Op.NORM, out, (x,), {}, {EPS: eps}, {NORM_WEIGHT: weight}))
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """See `Ops.silu_mul`."""
        out: Tensor = self.sink.new(gate_up, gate_up.shape[1] // 2, gate_up.dtype)
        self.sink.emit(Call(Op.SILU_MUL, out, (gate_up,)))
        return out

    def linear(
        self,
        x: Tensor,
        weight: PackedWeight,
        out: Tensor,
        bias: Tensor | None = None,
        epilogue: Epilogue = Epilogue.STORE,
    ) -> Tensor:
        """out [N, columns] (op)= x [N, in] @ weight.T + bias, by `epilogue`. Returns `out`."""
        self.sink.emit(Call(Op.LINEAR, out, (x,), {EPILOGUE: epilogue}, {}, {WEIGHT: weight, BIAS: bias}))
        return out

    def qkv(self, qkv: Tensor, heads: Heads, meta: AttentionMeta, cache: KVCache) -> Tensor:
        """See `Ops.qkv`."""
        out: Tensor = self.sink.new(qkv, heads.q * heads.dim, qkv.dtype)
        numbers = {Q_HEADS: heads.q, KV_HEADS: heads.kv, HEAD_DIM: heads.dim, ROPE_DIM: heads.cos_sin.shape[1]}
        call = Call(Op.QKV, out, (qkv,), numbers, {}, {COS_SIN: heads.cos_sin}, cache=cache, meta=meta)
        if (norms := heads.norms) is not None:
            call.tensors |= {Q_NORM: norms.q, K_NORM: norms.k}
            call.floats[EPS] = norms.eps
        self.sink.emit(call)
        return out.view(len(out), heads.q, heads.dim)

    def attention(self, q: Tensor, cache: KVCache, spec: AttentionSpec, meta: AttentionMeta) -> Tensor:
        """See `AttentionBackend.forward`; q [N, A * D]."""
        heads = len(spec.kv_of_head)
        dim, out = q.shape[1] // heads, self.sink.new(q, q.shape[1], q.dtype)
        numbers = {Q_HEADS: heads, KV_HEADS: cache.k.shape[1], HEAD_DIM: dim, WINDOW: spec.window}
        floats, tensors = {SCALE: spec.scale}, {KV_OF_HEAD: spec.kv_of_head}
        self.sink.emit(Call(Op.ATTENTION, out, (q,), numbers, floats, dict(tensors), cache=cache, meta=meta))
        found: Tensor = out
        return found

    def latent(
        self, q: Tensor, latent: Tensor, way: Latents, to_latent: PackedSlots, meta: AttentionMeta, cache: KVCache
    ) -> Tensor:
        """See `Ops.latent_queries`."""
        heads, dim = len(to_latent.slots), latent.shape[1]
        out: Tensor = self.sink.new(q, heads * dim, q.dtype)
        numbers = {Q_HEADS: heads, HEAD_DIM: dim, ROPE_DIM: way.cos_sin.shape[1]}
        tensors = {COS_SIN: way.cos_sin, K_NORM: way.norm}
        call = Call(Op.LATENT, out, (q, latent), numbers, {EPS: way.eps}, dict(tensors), cache=cache, meta=meta)
        self.sink.emit(call)
        return self.per_head(q, to_latent, out, dim).view(len(out), heads, dim)

    def per_head(self, x: Tensor, weight: PackedSlots, out: Tensor, step: int) -> Tensor:
        """See `Ops.per_head`; heads stand `step` columns apart in `out`, which it returns."""
        heads = len(weight.slots)
        numbers = {Q_HEADS: heads, IN_STEP: x.shape[1] // heads, OUT_STEP: step, EPILOGUE: Epilogue.STORE}
        self.sink.emit(Call(Op.PER_HEAD, out, (x,), numbers, {}, {WEIGHTS: weight}))
        return out

    def route(self, logits: Tensor, correction: Tensor | None, moe: MoEConfig) -> Tensor:
        """logits [N, E] -> choices, in fp32 at least; see `weft.ops.reference.routing`."""
        wide = torch.promote_types(logits.dtype, torch.float32)
        out: Tensor = self.sink.new(logits, 2 * moe.top_k, wide)
        tensors = {CORRECTION: None if correction is None else correction.to(wide)}
        self.sink.emit(Call(Op.ROUTE, out, (logits,), _routing(moe), {SCALE: moe.scale}, dict(tensors)))
        return out

    def place(self, choices: Handle, k: int, slots: int, tables: SlotTables | None = None) -> Placed:
        """Sorts choices by the `slots` here, as `tables` say; without tables they are slots, below 0 none."""
        found = self.placed(choices, k, slots)
        self.sink.emit(placing(Call(Op.PLACE, found.places, (choices,)), found, tables))
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
        self.sink.emit(Call(Op.GATHER, out, (rows,), {}, {}, {COUNT: count}, {ORDER: order}))

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
        numbers: dict[int, int] = {EPILOGUE: epilogue, SLOTS: len(weights.slots)}
        buffers = {} if row_weights is None else {SORTED_WEIGHTS: row_weights}
        self.sink.emit(Call(Op.GROUPED, out, (x,), numbers, {}, {WEIGHTS: weights, ENDS: ends}, buffers))
        return out

    def combine(
        self,
        answers: Handle,
        places: Handle,
        weights: Handle,
        out: Handle,
        k: int,
        more: Mapping[int, int] | None = None,
    ) -> Handle:
        """out [N, H]: sums of each row's answers, weighted, in the order of its choices. `more`: further numbers."""
        buffers = {} if self._exact else {SORTED_WEIGHTS: weights}
        self.sink.emit(Call(Op.COMBINE, out, (answers, places), {TOP_K: k, **(more or {})}, {}, {}, buffers))
        return out


def placing(call: Call, placed: Placed, tables: SlotTables | None) -> Call:
    """The call with what each needs that sorts choices by slot."""
    slots = len(placed.ends) // 2
    call.numbers |= {TOP_K: placed.k, HERE_LO: 0, HERE_HI: slots}
    call.tensors[ENDS] = placed.ends
    call.buffers |= {ORDER: placed.order, SORTED_WEIGHTS: placed.weights}
    if tables is not None:
        (lo, hi), (experts, most) = tables.here, tables.slot_of.shape
        call.numbers |= {HERE_LO: lo, HERE_HI: hi, EXPERTS: experts, MOST: most}
        call.tensors |= {REPLICAS: tables.replicas, SLOT_OF: tables.slot_of, TALLY: tables.tally}
    return call


def _routing(moe: MoEConfig) -> dict[int, int]:
    """ROUTE's numbers by their index."""
    return {
        TOP_K: moe.top_k,
        SIGMOID: moe.score == "sigmoid",
        NORMALIZE: moe.normalize,
        GROUPS: moe.groups,
        TOP_GROUPS: moe.top_groups,
        GROUP_BEST: moe.group_best,
    }
