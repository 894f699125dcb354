"""The step library's calls, over a sink that runs each now or adds it to a tape."""

from __future__ import annotations

from weft.compute.ops.native.calls import Sink
from weft.compute.ops.operations.attention import AttentionCalls
from weft.compute.ops.operations.dense import DenseCalls
from weft.compute.ops.operations.experts import ExpertCalls


class Builder(DenseCalls, AttentionCalls, ExpertCalls):
    """Calls of one sink. `exact`: of the exact model."""

    def __init__(self, sink: Sink, exact: bool = False) -> None:
        self.sink, self.exact = sink, exact
