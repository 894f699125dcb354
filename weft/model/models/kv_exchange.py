"""What owners of a KV cache exchange inside attention: queries to all of them, and partial outputs back.

Each owner has some of the keys of a request (`layout.rows.KVOwners`) and attends over these for all rows and heads
that its group has; what it finds goes to the rank of the row and head, which merges the parts in the owners' order.
For rows of prompts it can be fewer bytes to gather the keys of all owners instead (`layout.boundaries.KeyGather`): the
rank of the row and head then attends over each owner's keys itself. It finds the same parts, bit for bit.
Shapes: N rows of this rank's attention block, A query heads of this rank; M rows of the attention-dp group, E query
heads of the ranks of a kv_split; K KV heads, S block size, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from weft.compute.ops.attention import AttentionMeta, KVCache
from weft.model.layers.base_attention import BaseAttention
from weft.model.models.transitions import Transitions
from weft.parallel.arch.shards import Shards
from weft.parallel.layout.boundaries import KEYS, PARTIALS, QUERIES
from weft.parallel.layout.ranks import owners_of


@dataclass(frozen=True, slots=True)
class GatheredKeys:
    """Rows of prompts whose keys are gathered. `own`: numbers of those among the rows of this rank's attention block,
    `others`: of the rest; `order`: where each row is among `own` and then `others`. `blocks`: of this rank's cache,
    which all owners get; `counts`: how many each owner gives. `metas`: of `own`, with the keys of each owner; its
    blocks follow a null block."""

    own: Tensor
    others: Tensor
    order: Tensor
    blocks: Tensor
    counts: tuple[int, ...]
    metas: tuple[AttentionMeta, ...]


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The M rows of an attention-dp group whose queries are gathered, in the plan's order; `keys`: the other rows.
    `meta`: of the M rows, with this rank's share of their keys; `rows_of`: numbers of those that each cp block has,
    `order` [M]: where each is among those of all blocks, one block after the other. Without cp both are empty: the one
    block has all rows in order. `segments`: with cp, and all rows of the group, the same rows in the order of ranks,
    which step programs take; its runs are of consecutive positions."""

    meta: AttentionMeta
    rows_of: tuple[Tensor, ...] = ()
    order: Tensor | None = None
    keys: GatheredKeys | None = None
    segments: AttentionMeta | None = None

    @property
    def by_rank(self) -> AttentionMeta:
        """The rows in the order of ranks."""
        return self.segments or self.meta


def prepared_rows(prepare: Callable[[AttentionMeta], Any], meta: AttentionMeta, group: GroupRows | None) -> Any:
    """Prepares attention over this rank's rows, or those of its group: with gathered keys a pair, of the rows whose
    queries are gathered, and of the others with the keys of each owner."""
    if group is None:
        return prepare(meta)
    of_queries = prepare(group.meta)
    return of_queries if group.keys is None else (of_queries, [prepare(each) for each in group.keys.metas])


class KVExchange:
    """The end of `rank`, a rank of the world."""

    def __init__(self, shards: Shards, rank: int, transitions: Transitions) -> None:
        attention, place = shards.layout.attention, rank % shards.layout.stage_size
        self._transitions, self._group = transitions, owners_of(shards.layout, rank)
        self._split = attention.kv_split
        self._latent = shards.config.mla is not None
        self._block = place % shards.layout.group_size // attention.tp
        heads = [shards.head_share(member).q for member in self._group[: self._split]]
        self._heads = [hi - lo for lo, hi in heads]
        self._own_heads = self._heads[self._group.index(place) % self._split]

    def attend(self, attention: BaseAttention, q: Tensor, prepared: Any, cache: KVCache, group: GroupRows) -> Tensor:
        """Queries [N, A, D] of this rank's rows and heads -> what they found; `prepared`: of `group`."""
        if (keys := group.keys) is None:
            return attention.merge(self._parts(attention, q, prepared, cache, group))
        of_queries, of_keys = prepared
        q_own, caches = q[keys.own], self.keys(cache, keys)
        found = [attention.attend_partly(q_own, *each, own=True) for each in zip(of_keys, caches, strict=True)]
        if not len(group.meta.positions):
            return attention.merge(found)
        others = self._parts(attention, q[keys.others], of_queries, cache, group)
        return attention.merge([torch.cat(both)[keys.order] for both in zip(found, others, strict=True)])

    def _parts(
        self, attention: BaseAttention, q: Tensor, prepared: Any, cache: KVCache, group: GroupRows
    ) -> list[Tensor]:
        """What each owner finds for queries of this rank's rows and heads, in the owners' order."""
        return self.partials(attention.attend_partly(self.queries(q, group), prepared, cache), group)

    def queries(self, q: Tensor, rows: GroupRows) -> Tensor:
        """[N, A, D] -> [M, E, D]."""
        dim, counts = q.shape[2], self._counts(rows)
        outs = [q.new_empty(count, heads, dim) for count in counts for heads in self._heads]
        self._transitions.gather(QUERIES, q, outs, self._group)
        blocks = [torch.cat(outs[first : first + self._split], 1) for first in range(0, len(outs), self._split)]
        return blocks[0] if rows.order is None else torch.cat(blocks)[rows.order]

    def partials(self, part: Tensor, rows: GroupRows) -> list[Tensor]:
        """This owner's partial output [M, E * (D + 2)] -> of each owner, in order, that of this rank's rows and heads,
        [N, A * (D + 2)]."""
        ends = list(accumulate(self._heads, initial=0))
        width, counts = part.shape[1] // ends[-1], self._counts(rows)
        of_blocks = [part[own] for own in rows.rows_of] or [part]
        xs = [
            block[:, lo * width : hi * width].contiguous()
            for block in of_blocks
            for lo, hi in zip(ends, ends[1:], strict=False)
        ]
        outs = [part.new_empty(counts[self._block], self._own_heads * width) for _ in self._group]
        self._transitions.exchange(PARTIALS, xs, outs, self._group)
        return outs

    def keys(self, cache: KVCache, gathered: GatheredKeys) -> list[KVCache]:
        """The keys and values of each owner, a null block first, in the owners' order."""
        tensors = (cache.k,) if self._latent else (cache.k, cache.v)
        x = torch.stack([each[gathered.blocks] for each in tensors], 1)
        every = [x.new_empty(count + 1, *x.shape[1:]) for count in gathered.counts]
        for each in every:
            each[0] = 0
        self._transitions.gather(KEYS, x, [each[1:] for each in every], self._group)
        return [KVCache(each[:, 0], each[:, -1], cache.packed) for each in every]

    def _counts(self, rows: GroupRows) -> list[int]:
        """Rows of each cp block."""
        return [len(own) for own in rows.rows_of] or [len(rows.meta.positions)]
