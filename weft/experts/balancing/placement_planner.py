"""The seam between a running engine and whoever plans placements for it: off the engine's thread, one plan at a time.

Knows no process; `launch` has one that plans in a process of its own, tests plan at once.
"""

from __future__ import annotations

from typing import Protocol

from weft.experts.placement.placement import ExpertPlacement
from weft.experts.statistics.loads import FloatArray


class PlacementPlanner(Protocol):
    """Plans one placement after the other. `start` and `poll` return at once."""

    def start(self, loads: FloatArray, current: ExpertPlacement) -> None:
        """Begins to plan for loads [layers, experts]; layers without load keep what they have."""

    def poll(self) -> ExpertPlacement | None:
        """The plan, once, when it is there. WeftError: it came to nothing."""

    def close(self) -> None:
        """Ends a plan in the making; safe to call twice."""
