"""Executor: the seam between the engine and its ranks. Knows plans and results; no request and no tensor."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from weft.experts.loads import IntArray
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
class GoesOn(Protocol):
    """What an executor has besides that knows plans with further steps. Those of a plan whose steps are answered one by
    one (`Further.each`) come by `begin` and `follow`, those of any other plan by `step`."""

    @property
    def most_further(self) -> int:
        """How many are worth asking for, of ranks as they are; 0: none."""

    def begin(self, plan: StepPlan) -> None:
        """Gives `plan` to every rank, none of which has another one. PeerError: a rank is gone."""

    def follow(self) -> StepResult:
        """What its next step brought, and whether another one follows. PeerError: a rank is gone."""

    def interrupt(self, plan: StepPlan) -> None:
        """None of its steps follows the one in hand. Any thread may, also when the plan is through."""


@runtime_checkable
class Ahead(Protocol):
    """What an executor has besides whose ranks can be given a step while they run one."""

    def submit(self, plan: StepPlan) -> None:
        """Gives `plan` to every rank. PeerError: a rank is gone."""

    def collect(self) -> StepResult:
        """What the oldest step that was given and not collected brought. PeerError: a rank is gone."""
