"""Counters and gauges of expert balancing, as metrics show them. Plain records."""

from __future__ import annotations

import msgspec


class ExpertCounters(msgspec.Struct, kw_only=True):
    """Running counts of balancing: they only grow. Bytes are those that each rank's slots received, over one block."""

    decisions: int = 0
    failures: int = 0
    slots_moved: int = 0
    bytes_moved: int = 0
    layers_switched: int = 0


class ExpertStats(ExpertCounters, kw_only=True):
    """Balancing of expert slots. `before`, `now`: per layer of `layers`, the balance (mean / maximum of the ranks'
    loads) that the last full window had, and what the placement in force makes of its loads; None without load, empty
    before the first window."""

    layers: tuple[int, ...]
    window: int
    window_steps: int
    before: tuple[float | None, ...]
    now: tuple[float | None, ...]
    layers_moving: int
