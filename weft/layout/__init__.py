"""Layouts: the record, its resolution, and the algebra of placements. Pure numbers; imports no torch."""

from __future__ import annotations

from weft.layout.boundaries import Boundary, dense_boundaries, residual
from weft.layout.layout import Given, Layout
from weft.layout.placement import Interval, Placement, PlacementKind, full, partial, shard
from weft.layout.ranks import Coords, Group, block, coords, describe
from weft.layout.resolve import resolve
from weft.layout.rows import RowTable, row_table, sampled_table
from weft.layout.splits import HeadShare, assign_heads, even_splits, splits_after
from weft.layout.support import refuse_unsupported
from weft.layout.transition import Step, received_bytes, transition

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
