"""Decoder: a stack of layers with a transition at every boundary; routed experts through their dispatcher.

Which collective runs where follows from the boundaries' placements; nothing here decides one. Rows: N of this rank's
attention block, or fewer where the residual stream is scattered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.compute.ops.interface import Ops
from weft.model.layers import Attention, DenseMLP, Embedding, Experts, LatentAttention, LMHead, Norm, OProj
from weft.model.models.dispatch import TokenDispatcher
from weft.model.models.kv_exchange import GroupRows, KVExchange, prepared_rows
from weft.model.models.transitions import Transitions
from weft.parallel.layout.placement import Placement
from weft.parallel.layout.rows import RowTable

Tap = Callable[[str, Tensor, Placement], None]
"""Sees a module's result: its name, this rank's part, and how the parts make the whole."""
Prepared = tuple[Any, Any]
"""What the attention backend made of a step's rows, and of its sampled rows."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's view of one step. ids [N, 1] of the attention block's rows; `rows` and `sampled` count the rows and
    the sampled rows of every rank of the stage; `sampled_rows` are numbers of those among the rows that this rank holds
    of the residual stream. `meta`: of the attention block's rows, `sampled_meta`: of its sampled ones. Where ranks
    share the KV cache of a request, `group` and `sampled_group` are all rows, and all sampled rows, of the attention-dp
    group."""

    ids: Tensor
    meta: AttentionMeta
    rows: RowTable
    sampled: RowTable
    sampled_rows: Tensor
    sampled_meta: AttentionMeta
    group: GroupRows | None = None
    sampled_group: GroupRows | None = None

    @property
    def gathers_keys(self) -> bool:
        """Whether some rows gather the keys of all owners."""
        return any(rows is not None and rows.keys is not None for rows in (self.group, self.sampled_group))


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The modules of one layer: a dense MLP, or routed experts with or without shared ones."""

    attention_norm: Norm
    attention: Attention | LatentAttention
    o_proj: OProj
    dense_norm: Norm
    dense: DenseMLP | None
    experts: Experts | None = None
    shared_experts: DenseMLP | None = None


class Decoder:
    """Embedding, layers, head; `transitions` runs what stands between them, `dispatcher` what routed experts need.

    A pipeline stage has layers from `first_layer` on; only the first has the embedding, only the last norm and lm_head.

    In the model's last layer only sampled rows are still wanted once the keys of all are in the cache: it goes on with
    these from there, where attention takes its rows as the residual stream holds them. Elsewhere the rows of queries
    and of the stream are not the same ones; there it goes on with them after o_proj, where only the stream is left.
    """

    def __init__(
        self,
        embedding: Embedding | None,
        layers: Sequence[DecoderLayer],
        norm: Norm | None,
        lm_head: LMHead | None,
        transitions: Transitions,
        dispatcher: TokenDispatcher,
        ops: Ops,
        first_layer: int = 0,
        kv_exchange: KVExchange | None = None,
    ) -> None:
        """`kv_exchange`: where ranks share the KV cache of a request by position."""
        self.first_layer, self.kv_exchange = first_layer, kv_exchange
        self.embedding, self.layers, self.norm, self.lm_head = embedding, tuple(layers), norm, lm_head
        self.transitions, self.dispatcher, self.ops = transitions, dispatcher, ops
        self.boundaries = transitions.boundaries
        self._early = not self.boundaries["attention.in"].steps
        self.tap: Tap | None = None

    @property
    def experts(self) -> dict[int, Experts]:
        """Routed experts of its layers, by the layers' numbers in the model."""
        numbered = enumerate(self.layers, self.first_layer)
        return {number: layer.experts for number, layer in numbered if layer.experts is not None}

    def prepare(self, batch: Batch) -> Prepared:
        """What attention needs of the rows, asked once for all layers; outside a graph's capture."""
        prepare = self.ops.attention_backend.prepare
        rows = prepared_rows(prepare, batch.meta, batch.group)
        if not self._early or self.norm is None:
            return rows, None
        if batch.sampled_meta is batch.meta and batch.group is batch.sampled_group:
            return rows, rows
        return rows, prepared_rows(prepare, batch.sampled_meta, batch.sampled_group)

    def forward(
        self,
        batch: Batch,
        caches: Sequence[KVCache],
        arrived: Tensor | None = None,
        prepared: Prepared | None = None,
    ) -> Tensor:
        """Logits [own sampled rows, vocabulary] of this rank; before the last stage, the residual stream.

        `arrived`: the residual stream of the stage before, where there is one. `prepared`: what `prepare` gives.
        """
        prepared = prepared or self.prepare(batch)
        x = self._enter(batch) if arrived is None else arrived
        for index, (layer, cache) in enumerate(zip(self.layers, caches, strict=True), self.first_layer):
            ends = self.norm is not None and layer is self.layers[-1]
            x = self._attention_half(f"layers.{index}", layer, x, batch, cache, prepared, ends)
            h, table = layer.dense_norm.forward(x), batch.sampled if ends else batch.rows
            x = self.ops.add(x, self._mlp_half(f"layers.{index}", layer, h, table))
        return x if self.lm_head is None else self._head(x, batch)

    def _enter(self, batch: Batch) -> Tensor:
        assert self.embedding is not None
        x = self._move("embedding.in", batch.ids, batch.rows)
        x = self._move("embedding.out", self.embedding.forward(x), batch.rows)
        # The residual stream is added to twice a layer: in bf16 each addition would round what all layers before gave.
        x = self.ops.widen(x)
        self._show("embedding", x, self.boundaries["embedding.out"].dst)
        return x

    def _attention_half(
        self,
        name: str,
        layer: DecoderLayer,
        x: Tensor,
        batch: Batch,
        cache: KVCache,
        prepared: Prepared,
        ends: bool,
    ) -> Tensor:
        """`ends`: gives the sampled rows alone."""
        h = self._move("attention.in", layer.attention_norm.forward(x), batch.rows)
        h, table, of_rows = layer.attention.queries(h, batch.meta, cache), batch.rows, prepared[0]
        group = batch.group
        if ends and self._early:
            x, h = self.ops.select((x, h), batch.sampled_rows)
            table, of_rows, group = batch.sampled, prepared[1], batch.sampled_group
        if self.kv_exchange is None or group is None:
            h = layer.attention.attend(h, of_rows, cache)
        else:
            h = self.kv_exchange.attend(layer.attention, h, of_rows, cache, group)
        self._show(f"{name}.attention", h, self.boundaries["o_proj.in"].src)
        h = self._move("o_proj.in", h, table)
        h = self._move("o_proj.out", layer.o_proj.forward(h), table)
        h = layer.o_proj.add_bias(h)
        self._show(f"{name}.o_proj", h, self.boundaries["o_proj.out"].dst)
        x = self.ops.add(x, h)
        return self.ops.select((x,), batch.sampled_rows)[0] if ends and not self._early else x

    def _mlp_half(self, name: str, layer: DecoderLayer, h: Tensor, table: RowTable) -> Tensor:
        if layer.dense is not None:
            return self._dense(name, "dense", layer.dense, h, table)
        assert layer.experts is not None
        found = self.dispatcher.run(layer.experts, h, table)
        self._show(f"{name}.experts", found, self.boundaries["experts.out"].dst)
        if layer.shared_experts is None:
            return found
        return self.ops.add(found, self._dense(name, "shared_experts", layer.shared_experts, h, table))

    def _dense(self, name: str, module: str, mlp: DenseMLP, h: Tensor, table: RowTable) -> Tensor:
        h = self._move(f"{module}.in", h, table)
        h = self._move(f"{module}.out", mlp.forward(h), table)
        h = mlp.add_bias(h)
        self._show(f"{name}.{module}", h, self.boundaries[f"{module}.out"].dst)
        return h

    def _head(self, x: Tensor, batch: Batch) -> Tensor:
        assert self.norm is not None and self.lm_head is not None
        x = self.norm.forward(self._move("head.in", x, batch.sampled))
        x = self._move("lm_head.in", x, batch.sampled)
        logits = self._move("lm_head.out", self.lm_head.forward(x), batch.sampled)
        self._show("lm_head", logits, self.boundaries["lm_head.out"].dst)
        return logits

    def share_sampled(self, values: Tensor, batch: Batch) -> Tensor:
        """Values [own sampled rows, width] -> those of the whole attention-dp group, on each of its ranks, in the order
        of ranks."""
        return self.transitions.move_columns("sampling.out", values, batch.sampled)

    def _move(self, name: str, x: Tensor, table: RowTable) -> Tensor:
        return self.transitions.move(name, x, table)

    def _show(self, name: str, x: Tensor, placement: Placement) -> None:
        if self.tap is not None:
            self.tap(name, x, placement)
