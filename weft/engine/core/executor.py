"""The interface between the engine and its ranks: plans in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from weft.base.step.plan import StepPlan, StepResult
from weft.parallel.experts.statistics.loads import IntArray
from weft.parallel.layout.layout import Layout


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
        """Rows that chose each expert since the last call, [layers with experts, experts], summed over the ranks;
        called only where ranks count."""

    def close(self) -> None:
        """Ends the ranks; safe to call twice."""


@runtime_checkable
class AsyncExecutor(Protocol):
    """An executor that accepts a step before the results of the previous one are collected (async scheduling)."""

    def submit(self, plan: StepPlan) -> None:
        """Sends `plan` to every rank. PeerError: a rank is gone."""

    def collect(self) -> StepResult:
        """Waits for the results of the oldest plan that was submitted and not collected. PeerError: a rank is gone."""


@runtime_checkable
class CompilesGrammars(Protocol):
    """An executor whose ranks compile grammars beside steps."""

    @property
    def compiles(self) -> bool:
        """Whether ranks have still to answer the last `compile_grammars`."""

    def compile_grammars(self, texts: Sequence[Sequence[str]]) -> None:
        """Once `compiles` is false: every rank of group g begins to compile texts[g], and says how many it has done.
        PeerError: one is gone."""

    def compiled(self, group: int) -> int:
        """How many of the group's grammars each of its ranks has compiled or refused, in the order of the calls, as far
        as they have said."""

    def await_compiled(self, most_s: float) -> None:
        """Takes what ranks say of grammars, for `most_s` at most. PeerError: a rank is gone."""
