"""Plans that start from an old placement: what moves, what may not, and what is gained."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.expert_worlds import TRACES, skewed, trace
from weft.base.errors import ConfigError
from weft.parallel.experts import ExpertPlacement, LoadBalancer, SlotShape, even_placement
from weft.parallel.experts.balancing.repair import repair

WIDE = SlotShape(256, 288, 32)


@pytest.mark.parametrize("old, new", [pair for i, pair in enumerate(permutations(TRACES, 2)) if i % 3 == 0])
def test_a_few_slots_are_enough(old: str, new: str) -> None:
    current = LoadBalancer(WIDE).plan(trace(old)).placement
    plan = LoadBalancer(WIDE, max_moved=0.06).plan(trace(new), current)
    assert plan.balance.mean >= 0.95
    assert plan.moved is not None and plan.before is not None and plan.moved_share is not None
    assert max(plan.moved) <= 0.06 * 288
    assert plan.moved == tuple(plan.placement.moved(current))
    assert plan.moved_share == sum(plan.moved) / plan.placement.phy2log.size
    assert plan.balance.mean > plan.before.mean
    assert plan.placement.duplicates() == 0


@st.composite
def changes(draw: st.DrawFn) -> tuple[SlotShape, ExpertPlacement, np.ndarray, float]:
    """A placement drawn at random (with duplicates), loads, and a limit."""
    experts, ranks = draw(st.integers(2, 10)), draw(st.integers(1, 5))
    per_rank = draw(st.integers(-(-experts // ranks), min(experts, -(-experts // ranks) + 3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    slots = per_rank * ranks
    rows = [random.permutation(np.r_[:experts, random.integers(0, experts, slots - experts)]) for _ in range(2)]
    loads = random.lognormal(0, 1.5, (2, experts)) * (random.random((2, experts)) < 0.8)
    loads[:, 0] += 0.1
    shape = SlotShape(experts, slots, ranks)
    limit = draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.99]))
    return shape, ExpertPlacement(np.stack(rows), experts, ranks), loads, limit


@given(changes())
@settings(max_examples=60, deadline=None)
def test_the_limit_holds_and_nothing_gets_worse(change: tuple[SlotShape, ExpertPlacement, np.ndarray, float]) -> None:
    shape, current, loads, limit = change
    plan = LoadBalancer(shape, max_moved=limit).plan(loads, current)
    assert (plan.placement.moved(current) <= limit * shape.slots + 1e-9).all()
    assert plan.placement.duplicates() <= current.duplicates()
    again = LoadBalancer(shape, max_moved=limit).plan(loads, current)
    assert (plan.placement.phy2log == again.placement.phy2log).all()
    if plan.placement.duplicates() == current.duplicates():
        assert plan.before is not None
        assert plan.balance.mean >= plan.before.mean - 1e-9


def test_no_limit_is_a_fresh_plan_with_ranks_renamed() -> None:
    loads = trace(TRACES[0])
    balancer = LoadBalancer(WIDE)
    first = balancer.plan(loads)
    random = np.random.default_rng(0)
    shuffled = first.placement.by_rank()[:, random.permutation(32)][:, :, random.permutation(9)].reshape(len(loads), -1)
    plan = balancer.plan(loads, ExpertPlacement(shuffled, 256, 32))
    assert plan.moved_share == 0
    assert plan.balance == first.balance


def test_nothing_may_move() -> None:
    current = even_placement(7, WIDE)
    plan = LoadBalancer(WIDE, max_moved=0.0).plan(trace(TRACES[0]), current)
    assert plan.moved_share == 0 and plan.before == plan.balance


def test_a_layer_without_load_stays() -> None:
    current = even_placement(2, SlotShape(8, 12, 4))
    loads = np.stack([np.zeros(8), np.r_[50.0, np.ones(7)]])
    for limit in (0.5, 1.0):
        plan = LoadBalancer(SlotShape(8, 12, 4), max_moved=limit).plan(loads, current)
        assert plan.moved is not None and plan.moved[0] == 0 and plan.moved[1] > 0
        assert plan.moved_share == plan.moved[1] / 12


def test_duplicates_are_separated_first() -> None:
    start = np.array([[0, 0], [1, 2], [3, 1]])
    loads = np.array([1.0, 1, 1, 1])
    after = repair(loads, start, budget=1)
    assert (after != start).sum() == 1
    assert all(len(set(row)) == 2 for row in after.tolist())
    assert (repair(loads, start, budget=0) == start).all()


def test_experts_stay_where_they_are_allowed() -> None:
    start = np.array([[0, 1, 0], [0, 1, 2], [3, 4, 3], [3, 5, 4]])
    allowed = np.zeros((6, 4), dtype=bool)
    allowed[:3, :2] = True
    allowed[3:, 2:] = True
    loads = np.array([1.0, 9, 2, 1, 5, 30])
    after = repair(loads, start, 6, allowed)
    assert all(allowed[expert, rank] for rank, row in enumerate(after.tolist()) for expert in row)
    assert (after != start).any()


@pytest.mark.parametrize("limit", [0.06, 1.0])
def test_hierarchical_repair_keeps_groups_in_nodes(limit: float) -> None:
    shape = SlotShape(64, 80, 8, 2, 8)
    current = LoadBalancer(shape).plan(skewed("zipf", 3, 64)).placement
    plan = LoadBalancer(shape, max_moved=limit).plan(skewed("zipf", 3, 64, seed=1), current)
    assert plan.policy == "hierarchical"
    for layer in plan.placement.phy2log.reshape(3, 2, -1) // 8:
        assert not set(layer[0].tolist()) & set(layer[1].tolist())
    assert plan.before is not None and plan.balance.mean > plan.before.mean


def test_hierarchical_refuses_a_placement_that_spreads_groups() -> None:
    shape = SlotShape(8, 8, 4, 2, 2)
    spread = ExpertPlacement(np.array([[0, 4, 1, 5, 2, 6, 3, 7]]), 8, 4)
    with pytest.raises(ConfigError, match="group 0 of layer 0 is spread over nodes"):
        LoadBalancer(shape, max_moved=0.5).plan(np.ones((1, 8)), spread)


@pytest.mark.parametrize(
    "current, message",
    [
        (even_placement(1, WIDE), "from_placement 1: has 1 layers, but 7 are wanted"),
        (even_placement(7, SlotShape(128, 288, 32)), "has 128 experts, but 256 are wanted"),
        (even_placement(7, SlotShape(256, 320, 32)), "has 320 slots, but 288 are wanted"),
        (even_placement(7, SlotShape(256, 288, 16)), "has 16 ranks, but 32 are wanted"),
    ],
)
def test_a_placement_of_another_model_is_refused(current: ExpertPlacement, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoadBalancer(WIDE, max_moved=0.06).plan(trace(TRACES[0]), current)


def test_greedy_cannot_limit_moves() -> None:
    with pytest.raises(ConfigError, match="policy greedy: cannot limit moved slots; legal: auto, global, hierarchical"):
        LoadBalancer(WIDE, "greedy", 0.06).plan(trace(TRACES[0]), even_placement(7, WIDE))
    plan = LoadBalancer(WIDE, "greedy").plan(trace(TRACES[0]), even_placement(7, WIDE))
    assert plan.policy == "greedy" and plan.moved_share is not None
