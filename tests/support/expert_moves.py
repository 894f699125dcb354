"""Balancing for tests: plans at once, or drawn at random, so that weights move all the time. Needs no torch."""

from __future__ import annotations

import numpy as np

from weft.base.errors import WeftError
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.balancing.expert_balancing import BalanceSettings, ExpertBalancing
from weft.parallel.experts.placement.placement import ExpertPlacement, even_placement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.placement.transport import TransferRate
from weft.parallel.experts.statistics.loads import FloatArray


class InlinePlanner:
    """Plans where it is asked; the plan is there after `delay` looks. `fail`: numbers of the plans that come to
    nothing."""

    def __init__(self, balancer: LoadBalancer, delay: int = 0, fail: frozenset[int] = frozenset()) -> None:
        self.balancer, self.delay, self.fail = balancer, delay, fail
        self.started = self.looks = 0
        self._plan: ExpertPlacement | None = None

    def start(self, loads: FloatArray, current: ExpertPlacement) -> None:
        assert self._plan is None, "a plan is in the making"
        self.started += 1
        self.looks = 0
        self._plan = self.plan(loads, current)

    def plan(self, loads: FloatArray, current: ExpertPlacement) -> ExpertPlacement:
        return self.balancer.plan(loads, current).placement

    def poll(self) -> ExpertPlacement | None:
        assert self._plan is not None
        self.looks += 1
        if self.looks <= self.delay:
            return None
        plan, self._plan = self._plan, None
        if self.started in self.fail:
            raise WeftError("no plan, on purpose")
        return plan

    def close(self) -> None:
        self._plan = None


class RandomDecider(InlinePlanner):
    """Any legal placement, whatever the loads: most slots move."""

    def __init__(self, balancer: LoadBalancer, seed: int) -> None:
        super().__init__(balancer)
        self.draw = np.random.default_rng(seed)

    def plan(self, loads: FloatArray, current: ExpertPlacement) -> ExpertPlacement:
        rows = []
        for _ in range(current.layers):
            more = self.draw.integers(0, current.experts, current.slots - current.experts)
            rows.append(self.draw.permutation(np.concatenate((np.arange(current.experts), more))))
        return ExpertPlacement(np.stack(rows), current.experts, current.ranks)


class EveryPlan(ExpertBalancing):
    """Takes every plan up, better or not."""

    def _worthwhile(self, plan: ExpertPlacement, loads: FloatArray) -> ExpertPlacement:
        return plan


def random_balancing(
    shape: SlotShape, layers: tuple[int, ...], *, seed: int = 0, interval: int = 2, pace: TransferRate
) -> EveryPlan:
    """New random placements as fast as they can be moved."""
    balancer = LoadBalancer(shape)
    settings = BalanceSettings(
        layers, interval, interval, 2.0, balancer, most_moved=shape.slots, pace=pace, slot_bytes=300
    )
    return EveryPlan(settings, even_placement(len(layers), shape), RandomDecider(balancer, seed))
