"""The groups of ranks that a layout's boundaries call on, as tuples of rank numbers."""

from __future__ import annotations

from collections.abc import Iterable

from weft.arch.shards import Shards
from weft.layout.boundaries import Boundary
from weft.layout.ranks import Group


def distinct_groups(boundaries: Iterable[Boundary], stage_size: int) -> tuple[Group, ...]:
    """Every group of a stage once, ascending: the one order in which all ranks create them."""
    steps = {step for boundary in boundaries for step in boundary.steps if step.kind != "slice"}
    return tuple(sorted({step.group(rank) for step in steps for rank in range(stage_size)}))


def groups_of(shards: Shards) -> tuple[Group, ...]:
    """Every group that the model's boundaries call on, in the one global order."""
    return distinct_groups(shards.forward_plan.boundaries.values(), shards.layout.stage_size)
