"""How rows reach the experts that they chose, and how the answers come back: one seam, `base.TokenDispatcher`."""

from weft.model.models.dispatch.all_gather import AllGather
from weft.model.models.dispatch.all_to_all import AllToAll, SplitsOf, counted_splits, uniform_splits
from weft.model.models.dispatch.base import TokenDispatcher

__all__ = ["AllGather", "AllToAll", "SplitsOf", "TokenDispatcher", "counted_splits", "uniform_splits"]
