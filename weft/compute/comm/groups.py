"""The groups of ranks that a layout's boundaries call on, as tuples of rank numbers."""

from __future__ import annotations

from collections.abc import Iterable

from weft.parallel.arch.shards import Shards
from weft.parallel.layout.boundaries import Boundary
from weft.parallel.layout.layout import Layout
from weft.parallel.layout.pipeline_p2p import pipeline_pairs, pipeline_transfers
from weft.parallel.layout.ranks import Group, owners_of


def owner_groups(layout: Layout) -> set[Group]:
    """Of a stage: ranks that share the KV cache of a request by position."""
    return {owners_of(layout, rank) for rank in range(layout.stage_size)} if layout.kv_owners > 1 else set()


def distinct_groups(boundaries: Iterable[Boundary], stage_size: int) -> tuple[Group, ...]:
    """Every group of a stage once, ascending: the one order in which all ranks create them."""
    steps = {step for boundary in boundaries for step in boundary.steps if step.kind != "slice"}
    return tuple(sorted({step.group(rank) for step in steps for rank in range(stage_size)}))


def groups_of(shards: Shards) -> tuple[Group, ...]:
    """Every group that the model's boundaries call on in any pipeline stage of one replica, those that share a KV cache
    by position, and the pairs of ranks that send to each other between stages, in the one global order."""
    layout = shards.layout
    transfers = pipeline_transfers(layout, shards.config.hidden_size, shards.forward_plan.residual)
    boundaries = (*shards.forward_plan.boundaries.values(), *(each.gather for each in transfers))
    own = {*distinct_groups(boundaries, layout.stage_size), *owner_groups(layout)}
    firsts = range(0, layout.stage_size * layout.pipeline.stages, layout.stage_size)
    of_stages = {tuple(first + rank for rank in group) for first in firsts for group in own}
    return tuple(sorted(of_stages | {*pipeline_pairs(layout)}))
