"""Layouts: the record, its resolution, and the algebra of placements. Pure numbers; imports no torch."""

from __future__ import annotations

from weft.layout.boundaries import Boundary, dense_boundaries, residual
from weft.layout.cuts import HeadShare, cuts_for, deal_heads, even_cuts
from weft.layout.layout import Given, Layout
from weft.layout.placement import Interval, Kind, Placement, full, partial, shard
from weft.layout.ranks import Coords, Group, block, coords, describe
from weft.layout.resolve import resolve
from weft.layout.rows import RowTable, row_table, sampled_table
from weft.layout.support import refuse_unsupported
from weft.layout.transition import Step, received_bytes, transition

__all__ = [
    "Boundary",
    "Coords",
    "Given",
    "Group",
    "HeadShare",
    "Interval",
    "Kind",
    "Layout",
    "Placement",
    "RowTable",
    "Step",
    "block",
    "coords",
    "cuts_for",
    "deal_heads",
    "dense_boundaries",
    "describe",
    "even_cuts",
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
