"""Passage: every boundary that a model's rows pass under a layout, from both. The engine runs it, explain draws it.

Knows sizes of modules; decides nothing that `layout` does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.arch.config import ModelConfig
from weft.layout.boundaries import Boundary, RoutedExchange, dense_boundaries, residual, routed_exchanges
from weft.layout.layout import Layout
from weft.layout.placement import Placement
from weft.layout.routed import Dispatch, Routing, dispatch_of


@dataclass(frozen=True, slots=True)
class Passage:
    """`boundaries` in the order of a forward pass, by name; `exchanges` of routed rows between experts.choices and
    experts.out; `dispatch`: how rows reach experts, None for a dense model."""

    residual: Placement
    boundaries: dict[str, Boundary]
    exchanges: tuple[RoutedExchange, ...]
    dispatch: Dispatch | None


def passage(config: ModelConfig, layout: Layout) -> Passage:
    """The passage of `config` under `layout`."""
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
    return Passage(residual(layout, form), boundaries, exchanges, dispatch)
