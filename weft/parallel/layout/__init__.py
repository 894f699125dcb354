"""Layouts: the record, its resolution, and the algebra of placements. Pure numbers; imports no torch."""

from __future__ import annotations

from weft.parallel.layout.boundaries import Boundary, dense_boundaries, residual
from weft.parallel.layout.layout import Given, Layout
from weft.parallel.layout.placement import Interval, Placement, PlacementKind, full, partial, shard
from weft.parallel.layout.ranks import Coords, Group, block, coords, describe
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.rows import RowTable, row_table, sampled_table
from weft.parallel.layout.splits import HeadShare, assign_heads, even_splits, splits_after
from weft.parallel.layout.support import refuse_unsupported
from weft.parallel.layout.transition import Step, received_bytes, transition

__all__ = [
    "Boundary",
    "Coords",
    "Given",
    "Group",
    "HeadShare",
    "Interval",
    "PlacementKind",
    "Layout",
    "Placement",
    "RowTable",
    "Step",
    "block",
    "coords",
    "splits_after",
    "assign_heads",
    "dense_boundaries",
    "describe",
    "even_splits",
    "full",
    "partial",
    "received_bytes",
    "refuse_unsupported",
    "residual",
    "resolve",
    "row_table",
    "sampled_table",
    "shard",
    "transition",
]
