"""ForwardPlan: every boundary of a model's forward pass under a layout, in order. For engine and explain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from weft.parallel.arch.config import ModelConfig
from weft.parallel.layout.boundaries import (
    Boundary,
    KeyGather,
    OwnerExchange,
    RoutedExchange,
    dense_boundaries,
    key_gather,
    owner_exchanges,
    residual,
    routed_exchanges,
)
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.placement import Placement
from weft.parallel.layout.rank_plans import RankPlans
from weft.parallel.layout.routed import Dispatch, Routing, dispatch_of
from weft.parallel.layout.rows import KVOwners


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """`boundaries` in the order of a forward pass, by name; `exchanges` of routed rows between experts.choices and
    experts.out; `dispatch`: how rows reach experts, None for a dense model."""

    residual: Placement
    boundaries: dict[str, Boundary]
    exchanges: tuple[RoutedExchange, ...]
    dispatch: Dispatch | None
    owner_exchanges: tuple[OwnerExchange, ...] = ()
    """Between attention.in and o_proj.in, where ranks share the KV cache of a request."""
    key_gather: KeyGather | None = None
    """What rows of prompts exchange there instead, where that is fewer bytes."""


def forward_plan(config: ModelConfig, layout: Layout) -> ForwardPlan:
    """The forward plan of `config` under `layout`."""
    routing = Routing(config.hidden_size, config.moe.top_k if config.moe else 0)
    dispatch = dispatch_of(layout, layout.experts, routing) if layout.experts else None
    form = dispatch.form if dispatch else "all_gather"
    boundaries = dense_boundaries(
        layout,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.value_dim,
        vocab=config.vocab_size,
        top_k=routing.top_k,
        dispatch=form,
    )
    exchanges = routed_exchanges(layout.experts, routing, form) if layout.experts else ()
    key_dim = config.mla.latent_dim if config.mla else config.head_dim
    owners = owner_exchanges(layout, heads=config.num_heads, kv_heads=config.num_kv_heads, key_dim=key_dim)
    latent, kv_heads = config.mla is not None, config.num_kv_heads
    keys = key_gather(layout, heads=config.num_heads, kv_heads=kv_heads, key_dim=key_dim, latent=latent)
    return ForwardPlan(residual(layout, form), boundaries, exchanges, dispatch, owners, keys)


def rank_plans(plan: ForwardPlan, layout: Layout, block_size: int, itemsize: int) -> RankPlans:
    """Divides steps. `block_size`: positions that a rank has of a KV block; `itemsize`: bytes of an activation."""
    attention, price = layout.attention, plan.key_gather
    gathers = None if price is None else partial(price.chosen, block_size=block_size, itemsize=itemsize)
    return RankPlans(attention.tp, KVOwners(attention.cp, attention.kv_split, block_size), gathers)
