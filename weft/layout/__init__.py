"""Layouts: the record, its resolution, and the algebra of placements. Pure numbers; imports no torch."""

from __future__ import annotations

from weft.layout.layout import Given, Layout
from weft.layout.placement import Interval, Kind, Placement, full, partial, shard
from weft.layout.ranks import Coords, Group, block, coords, describe
from weft.layout.resolve import resolve
from weft.layout.support import refuse_unsupported

__all__ = [
    "Coords",
    "Given",
    "Group",
    "Interval",
    "Kind",
    "Layout",
    "Placement",
    "block",
    "coords",
    "describe",
    "full",
    "partial",
    "refuse_unsupported",
    "resolve",
    "shard",
]
