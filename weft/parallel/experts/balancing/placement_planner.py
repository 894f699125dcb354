"""The interface between expert balancing and the planner of placements, which works outside the engine's thread.

`EplbProcess` plans in a separate process; tests plan at once.
"""

from __future__ import annotations

from typing import Protocol

from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.statistics.loads import FloatArray


class PlacementPlanner(Protocol):
    """Plans one placement after the other. `start` and `poll` return at once."""

    def start(self, loads: FloatArray, current: ExpertPlacement) -> None:
        """Begins to plan for loads [layers, experts]; layers without load keep their placement."""

    def poll(self) -> ExpertPlacement | None:
        """Returns the plan once, when it is ready. WeftError: planning failed."""

    def close(self) -> None:
        """Cancels planning; safe to call twice."""
