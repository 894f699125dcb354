"""LoadBalancer: plans a placement from loads, or repairs the current one, and computes the balance of the result.

Commands and engines call this module only. Deterministic: the same loads give the same plan on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.base.errors import ConfigError
from weft.parallel.experts.balancing.global_plan import plan
from weft.parallel.experts.balancing.greedy import greedy
from weft.parallel.experts.balancing.hierarchical import allowed_by_node, plan_by_node
from weft.parallel.experts.balancing.repair import repair
from weft.parallel.experts.placement.placement import ExpertPlacement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import BoolArray, FloatArray, IntArray, check_shape, normalized
from weft.parallel.experts.statistics.metric import Balancedness, balance

POLICIES = ("auto", "greedy", "global", "hierarchical")


@dataclass(frozen=True, slots=True)
class BalancePlan:
    """A placement and its balance; `before` and `moved` are about the placement that it replaces, if there is one.

    moved: slots whose expert changes, per layer.
    """

    placement: ExpertPlacement
    policy: str
    balance: Balancedness
    before: Balancedness | None = None
    moved: tuple[int, ...] | None = None

    @property
    def moved_share(self) -> float | None:
        """Moved slots / all slots, over the layers that have load; the others never move."""
        if self.moved is None:
            return None
        return sum(self.moved) / (len(self.balance.known) * self.placement.slots)


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """Plans for one shape under one policy.

    auto is hierarchical where shape has nodes and groups, else global. max_moved (0 .. 1) is the share of a layer's
    slots that may change when there is a current placement; 1 is no limit. Raises ConfigError where they do not fit.
    """

    shape: SlotShape
    policy: str = "auto"
    max_moved: float = 1.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise _error("policy", self.policy, f"legal: {', '.join(POLICIES)}", POLICIES)
        if not 0 <= self.max_moved <= 1:
            raise _error("max_moved", self.max_moved, "legal: 0 to 1, a share of a layer's slots", (0, 1))
        if self.policy == "hierarchical" and not self.shape.hierarchical:
            needs = f"needs nodes and groups above 1, got nodes {self.shape.nodes} and groups {self.shape.groups}"
            raise _error("policy", self.policy, f"{needs}; legal without: auto, greedy, global", POLICIES[:3])

    @property
    def resolved(self) -> str:
        """The policy with auto replaced."""
        if self.policy != "auto":
            return self.policy
        return "hierarchical" if self.shape.hierarchical else "global"

    def plan(self, loads: FloatArray, current: ExpertPlacement | None = None) -> BalancePlan:
        """A placement for loads [layers, experts], close to `current` where that is given.

        With a current placement the new one keeps experts in their slots where it can; if it still changes more than
        max_moved of a layer, that layer of the current one is repaired within the limit instead. A layer without load
        keeps its placement. Raises ConfigError where loads or the current placement are of another shape.
        """
        check_shape(loads, len(loads), self.shape.experts)
        if current is None:
            placement = self._fresh(loads)
            return BalancePlan(placement, self.resolved, balance(placement, loads))
        self._check_current(current, len(loads))
        placement = self._from_current(loads, current)
        moved = tuple(int(count) for count in placement.moved(current))
        return BalancePlan(placement, self.resolved, balance(placement, loads), balance(current, loads), moved)

    def _fresh(self, loads: FloatArray) -> ExpertPlacement:
        if self.resolved == "greedy":
            return greedy(loads, self.shape)
        shares = normalized(loads)
        if self.resolved == "hierarchical":
            table = plan_by_node(shares, self.shape)
        else:
            table = plan(shares, self.shape.slots, self.shape.ranks)
        return self._placement(table)

    def _from_current(self, loads: FloatArray, current: ExpertPlacement) -> ExpertPlacement:
        """Layer by layer: the current rows where there is no load, a fresh plan within the limit, else a repair."""
        table = current.by_rank().copy()
        loaded = np.flatnonzero(loads.any(axis=1))
        budget = int(self.max_moved * self.shape.slots + 1e-9)
        allowed = allowed_by_node(current, self.shape) if self.resolved == "hierarchical" else None
        if self.max_moved == 1:
            table[loaded] = self._relabelled(loads, current).by_rank()[loaded]
            return self._placement(table).aligned(current)
        for layer in loaded:
            may: BoolArray | None = None if allowed is None else allowed[layer]
            table[layer] = repair(loads[layer], table[layer], budget, may)
        return self._placement(table).aligned(current)

    def _relabelled(self, loads: FloatArray, current: ExpertPlacement) -> ExpertPlacement:
        """A fresh plan with ranks renumbered, inside their nodes, so that they keep as many experts as possible."""
        fresh = self._fresh(loads).by_rank().copy()
        size = self.shape.ranks // (self.shape.nodes if self.resolved == "hierarchical" else 1)
        for new, old in zip(fresh, current.by_rank(), strict=True):
            for first in range(0, self.shape.ranks, size):
                part = slice(first, first + size)
                new[part] = new[part][_match(new[part], old[part], self.shape.experts)]
        return self._placement(fresh)

    def _placement(self, table: IntArray) -> ExpertPlacement:
        return ExpertPlacement(table.reshape(len(table), -1), self.shape.experts, self.shape.ranks)

    def _check_current(self, current: ExpertPlacement, layers: int) -> None:
        wanted = (layers, self.shape.experts, self.shape.slots, self.shape.ranks)
        got = (current.layers, current.experts, current.slots, current.ranks)
        for field, want, have in zip(("layers", "experts", "slots", "ranks"), wanted, got, strict=True):
            if want != have:
                message = f"has {have} {field}, but {want} are wanted: it is of another model or layout"
                raise _error("from_placement", have, message, (want,))
        if self.resolved == "greedy" and self.max_moved < 1:
            legal = ("auto", "global", "hierarchical")
            raise _error("policy", "greedy", f"cannot limit moved slots; legal: {', '.join(legal)}", legal)


def _match(new: IntArray, old: IntArray, experts: int) -> IntArray:
    """For each old rank a new one, most shared experts first; new, old [ranks, slots per rank]."""
    held = [np.stack([np.bincount(row, minlength=experts) for row in part]) for part in (new, old)]
    shared = np.minimum(held[1][:, None], held[0][None]).sum(axis=2)
    chosen = np.full(len(new), -1)
    for _ in range(len(new)):
        rank, candidate = np.unravel_index(int(shared.argmax()), shared.shape)
        chosen[rank] = candidate
        shared[rank, :] = -1
        shared[:, candidate] = -1
    return chosen


def _error(field: str, value: object, reason: str, legal: tuple[object, ...]) -> ConfigError:
    return ConfigError(f"{field} {value}: {reason}", field=field, value=value, legal=legal)
