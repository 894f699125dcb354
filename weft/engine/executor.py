"""Executor: the seam between the engine and its ranks. Knows plans and results; no request and no tensor."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from weft.experts.statistics.loads import IntArray
from weft.layout.layout import Layout
from weft.step.plan import StepPlan, StepResult


class Executor(Protocol):
    """All ranks of one engine."""

    @property
    def layout(self) -> Layout:
        """The layout the ranks run."""

    @property
    def num_blocks(self) -> int:
        """KV blocks on every rank, the null block not counted: the minimum over ranks. Ids are 1 .. num_blocks."""

    def step(self, plan: StepPlan) -> StepResult:
        """Runs `plan` on every rank. PeerError: a rank is gone, and no further step can run."""

    def expert_counts(self) -> IntArray:
        """Rows that chose each expert since the last call, [layers with experts, experts], added up over the ranks;
        asked for only where ranks count."""

    def close(self) -> None:
        """Ends the ranks; safe to call twice."""


@runtime_checkable
class AsyncExecutor(Protocol):
    """What an executor has besides whose ranks can be given a plan before anybody asks for its results."""

    @property
    def async_scheduling(self) -> bool:
        """Whether they may be given a plan while they run one."""

    def submit(self, plan: StepPlan) -> None:
        """Gives `plan` to every rank. PeerError: a rank is gone."""

    def collect(self) -> StepResult:
        """What the oldest plan that was given and not collected brought. PeerError: a rank is gone."""
