"""What every dense module takes and gives, and the transitions between them in the order of a forward pass.

The one declaration of module placements: the decoder runs it, explain draws it, comm takes its groups from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from weft.parallel.layout.layout import ExpertsLayout, Layout
from weft.parallel.layout.placement import Interval, Placement, full, partial, shard
from weft.parallel.layout.routed import Form, RoutedBlock, Routing, routed_block
from weft.parallel.layout.splits import assign_heads, even_splits, splits_after
from weft.parallel.layout.transition import Step, transition

Rows = Literal["rows", "sampled"]
Item = Literal["activation", "id", "logit", "choice"]
"""A choice is an expert and its weight."""
SAMPLED_COLUMNS = 2
"""Of a sampled row: its id, and whether it is one. More where a request asks for log-probabilities."""


def sampled_columns(logprobs: int | None) -> int:
    """Of a sampled row, where any request of its attention block asks for log-probabilities: that of the id, its rank,
    and an id and a log-probability of each of so many alternatives. None: nothing but the id is asked for."""
    return SAMPLED_COLUMNS if logprobs is None else SAMPLED_COLUMNS + 2 + 2 * logprobs


@dataclass(frozen=True)
class Boundary:
    """One transition between modules: `width` columns of `item` for the rows of the step or its sampled rows only."""

    name: str
    src: Placement
    dst: Placement
    width: int
    rows: Rows
    item: Item

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The collectives, in order; empty where nothing has to happen."""
        return transition(self.src, self.dst, self.width)


@dataclass(frozen=True, slots=True)
class ModulePlacement:
    """The placement that a module takes its rows in, and the one that it gives them in."""

    takes: Placement
    gives: Placement


@dataclass(frozen=True, slots=True)
class RoutedExchange:
    """An all_to_all between the ranks of an expert block, of `width` columns of rows ("dispatch") or answers
    ("combine"); how many go where is known when rows have chosen."""

    name: str
    way: Literal["dispatch", "combine"]
    block: RoutedBlock
    width: int


@dataclass(frozen=True, slots=True)
class OwnerExchange:
    """What ranks that share the KV cache of a request exchange inside attention, in every layer: `queries` of each to
    all, `partials` of each back to the rank of the row and head. `heads`: query heads of each rank of an attention
    block; a head of a row takes `width` numbers. Or `keys` of each to all: `heads` are KV heads, or one for latents,
    and one at a position takes `width` numbers."""

    name: str
    way: Literal["queries", "partials", "keys"]
    heads: tuple[int, ...]
    width: int


QUERIES, PARTIALS, KEYS = "attention.queries", "attention.partials", "attention.keys"
"""Names of owners' exchanges."""
PARTIAL_BYTES = 4
"""Partial outputs of attention travel in fp32 at least."""


@dataclass(frozen=True, slots=True)
class KeyGather:
    """The other form of what owners exchange, for rows of prompts: each gets the cached keys and values of all owners,
    where otherwise queries and partial outputs move. `heads`: query heads of an attention block, `key_dim` of each;
    `numbers`: what all groups of owners of an attention block have of a position in a layer."""

    exchange: OwnerExchange
    heads: int
    key_dim: int
    numbers: int

    def longest(self, rows: int, itemsize: int) -> int:
        """The longest context, in positions of whole blocks, with which so many rows of a request gather its keys:
        those are fewer bytes. With a longer one their queries are gathered. -1: with none.

        Of either, all ranks of an attention-dp group together receive (owners - 1) times the bytes below."""
        of_row = self.heads * (self.key_dim * itemsize + (self.key_dim + 2) * max(PARTIAL_BYTES, itemsize))
        return (rows * of_row - 1) // (self.numbers * itemsize)

    def chosen(self, rows: int, end: int, block_size: int, itemsize: int) -> bool:
        """Whether `rows` of a prompt gather the keys of a context of `end` positions, in blocks of `block_size`."""
        return -(-end // block_size) * block_size <= self.longest(rows, itemsize)


def owner_exchanges(layout: Layout, *, heads: int, kv_heads: int, key_dim: int) -> tuple[OwnerExchange, ...]:
    """In order; none where every rank has all positions. `key_dim`: of what attention multiplies queries by."""
    if layout.kv_owners == 1:
        return ()
    shares = assign_heads(heads, kv_heads, layout.attention.tp, layout.attention.split)
    counts = tuple(share.q[1] - share.q[0] for share in shares)
    # a partial output has a level and a sum of weights beside the values
    return OwnerExchange(QUERIES, "queries", counts, key_dim), OwnerExchange(PARTIALS, "partials", counts, key_dim + 2)


def key_gather(layout: Layout, *, heads: int, kv_heads: int, key_dim: int, latent: bool) -> KeyGather | None:
    """None where every rank has all positions. `latent`: the cache has one tensor of `key_dim`, the same for all heads,
    not keys and values of each KV head."""
    if layout.kv_owners == 1:
        return None
    shares = assign_heads(heads, kv_heads, layout.attention.tp, layout.attention.split)
    held = tuple(1 if latent else share.kv[1] - share.kv[0] for share in shares)
    width = key_dim if latent else 2 * key_dim
    exchange = OwnerExchange(KEYS, "keys", held, width)
    return KeyGather(exchange, heads, key_dim, sum(held[:: layout.attention.kv_split]) * width)


def residual(layout: Layout, dispatch: Form = "all_gather") -> Placement:
    """Where the residual stream lies: FULL(attention.tp) where o_proj, dense and expert blocks have attention's size,
    else scattered. Experts after an all_to_all take scattered rows, as a module of size 1.

    Embedding and lm_head have no say: they touch it once per step, the others once per layer.
    """
    t = layout.attention.tp
    sizes = {layout.o_proj.tp, layout.dense.tp}
    if layout.experts and layout.shared_experts:
        routed = layout.experts.tp * layout.experts.ep if dispatch == "all_gather" else 1
        sizes |= {routed, layout.shared_experts.tp}
    return full(t) if sizes == {t} else full(1)


def finds_largest(layout: Layout) -> bool:
    """Whether ranks that share the lm_head are those of one attention block, which has all rows of its group: then each
    can find the largest logits of its own columns, and logits need not come together."""
    return layout.attention.cp == 1 and layout.lm_head.tp == layout.attention.tp


def head_columns(layout: Layout, *, heads: int, kv_heads: int, head_dim: int) -> tuple[Interval, ...]:
    """The columns of attention's output on every rank of an attention block: its query heads, head_dim wide."""
    shares = assign_heads(heads, kv_heads, layout.attention.tp, layout.attention.split)
    return tuple((share.q[0] * head_dim, share.q[1] * head_dim) for share in shares)


def module_placements(
    layout: Layout, *, heads: int, kv_heads: int, head_dim: int, vocab: int, dispatch: Form = "all_gather"
) -> dict[str, ModulePlacement]:
    """What each module takes and gives, in the order of a forward pass.

    A module of size 1 takes the residual's placement and gives it back: rows that lie scattered stay so. An lm_head
    of size 1, and sampling, take scattered rows. Sampling gives the ids to its whole attention-dp group. Experts after
    an all_to_all take scattered rows and give them back so; what moves in between are the block's `routed_exchanges`.
    """
    t, stream = layout.attention.tp, residual(layout, dispatch)
    columns = head_columns(layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    o_in = shard(splits_after(columns, layout.o_proj.tp))
    placements = {
        "embedding": _summing(layout.embedding.tp, full(layout.embedding.tp), stream),
        "attention": ModulePlacement(full(t), shard(columns)),
        "o_proj": _summing(layout.o_proj.tp, o_in, stream),
        "dense": _summing(layout.dense.tp, full(layout.dense.tp), stream),
        "lm_head": ModulePlacement(full(layout.lm_head.tp), shard(even_splits(vocab, layout.lm_head.tp))),
        "sampling": ModulePlacement(full(1), full(layout.group_size)),
    }
    if layout.experts and layout.shared_experts:
        size, shared = layout.experts.tp * layout.experts.ep, layout.shared_experts.tp
        routed = _summing(size, full(size), stream)
        placements["experts"] = routed if dispatch == "all_gather" else ModulePlacement(full(1), full(1))
        placements["shared_experts"] = _summing(shared, full(shared), stream)
    return placements


def _summing(size: int, takes: Placement, stream: Placement) -> ModulePlacement:
    """A module whose ranks each give an addend; alone, it gives the sum itself."""
    return ModulePlacement(stream, stream) if size == 1 else ModulePlacement(takes, partial(size))


def dense_boundaries(
    layout: Layout,
    *,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    top_k: int = 0,
    dispatch: Form = "all_gather",
) -> dict[str, Boundary]:
    """Every boundary of a decoder, in the order of a forward pass; `top_k`, `dispatch`: of a layout with experts.

    embedding.in and sampling.out move ids ([rows, 1]), which every rank of the attention block knows beforehand and
    must know afterwards. head.in scatters the residual, so that every rank samples its own rows. experts.choices sends
    every rank of an expert block what all rows of the block chose, ahead of an all_to_all.

    A layer's boundaries are passed with all rows of the step; in the last layer some with the sampled rows alone.
    """
    stream, t = residual(layout, dispatch), layout.attention.tp
    m = module_placements(layout, heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocab=vocab, dispatch=dispatch)
    boundaries = (
        Boundary("embedding.in", full(t), m["embedding"].takes, 1, "rows", "id"),
        Boundary("embedding.out", m["embedding"].gives, stream, hidden, "rows", "activation"),
        Boundary("attention.in", stream, m["attention"].takes, hidden, "rows", "activation"),
        Boundary("o_proj.in", m["attention"].gives, m["o_proj"].takes, heads * head_dim, "rows", "activation"),
        Boundary("o_proj.out", m["o_proj"].gives, stream, hidden, "rows", "activation"),
        Boundary("dense.in", stream, m["dense"].takes, hidden, "rows", "activation"),
        Boundary("dense.out", m["dense"].gives, stream, hidden, "rows", "activation"),
        *_expert_boundaries(layout, m, stream, hidden, top_k if dispatch == "all_to_all" else 0),
        Boundary("head.in", stream, full(1), hidden, "sampled", "activation"),
        Boundary("lm_head.in", full(1), m["lm_head"].takes, hidden, "sampled", "activation"),
        Boundary("lm_head.out", m["lm_head"].gives, full(1), vocab, "sampled", "logit"),
        Boundary("sampling.out", full(1), m["sampling"].gives, SAMPLED_COLUMNS, "sampled", "id"),
    )
    return {boundary.name: boundary for boundary in boundaries}


def _expert_boundaries(
    layout: Layout, m: dict[str, ModulePlacement], stream: Placement, hidden: int, choices: int
) -> Iterator[Boundary]:
    """Of routed and shared experts; `choices`: choices of a row that are sent to its block."""
    for name in ("experts", "shared_experts"):
        if name in m:
            yield Boundary(f"{name}.in", stream, m[name].takes, hidden, "rows", "activation")
            if name == "experts" and layout.experts and choices:
                block = full(layout.experts.tp * layout.experts.ep)
                yield Boundary("experts.choices", full(1), block, choices, "rows", "choice")
            yield Boundary(f"{name}.out", m[name].gives, stream, hidden, "rows", "activation")


def routed_exchanges(experts: ExpertsLayout, routing: Routing, dispatch: Form) -> tuple[RoutedExchange, ...]:
    """What an expert block exchanges between experts.choices and experts.out, in order; none but for an all_to_all."""
    if dispatch != "all_to_all":
        return ()
    block = routed_block(experts, routing.top_k)
    return (
        RoutedExchange("experts.dispatch", "dispatch", block, routing.hidden),
        RoutedExchange("experts.combine", "combine", block, routing.hidden),
    )
