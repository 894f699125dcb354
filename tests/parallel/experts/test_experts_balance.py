"""Policies against published figures, recorded loads, plain enumeration and drawn worlds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.parallel.experts.upper_bound import upper_bound
from tests.support.expert_worlds import TRACES, TWELVE, best_by_enumeration, skewed, trace
from weft.base.errors import ConfigError
from weft.parallel.experts import BalancePlan, LoadBalancer, SlotShape

EXAMPLE = SlotShape(experts=12, slots=16, ranks=8, nodes=2, groups=4)


def planned(loads: np.ndarray, slots: int, ranks: int, policy: str = "global") -> BalancePlan:
    return LoadBalancer(SlotShape(loads.shape[1], slots, ranks), policy).plan(loads)


def shares(plan: BalancePlan) -> list[float]:
    """Balance of each layer; every layer has one."""
    found = [share for share in plan.balance.per_layer if share is not None]
    assert len(found) == len(plan.balance.per_layer)
    return found


def share_of_bound(plan: BalancePlan, loads: np.ndarray) -> np.ndarray:
    """balance / bound of every layer."""
    placement = plan.placement
    bound = upper_bound(loads, SlotShape(placement.experts, placement.slots, placement.ranks))
    return np.array(plan.balance.per_layer) / bound


def test_the_greedy_gives_the_published_plan() -> None:
    published = [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]
    plan = LoadBalancer(EXAMPLE, "greedy").plan(TWELVE)
    assert plan.placement.phy2log.tolist() == published
    assert np.allclose(shares(plan), [0.8277, 0.8050], atol=5e-5)


def test_the_published_example_without_groups() -> None:
    assert np.allclose(shares(planned(TWELVE, 16, 8, "greedy")), [0.9323, 0.8401], atol=5e-5)
    best = shares(planned(TWELVE, 16, 8))
    assert best[0] >= 1033 / 8 / 136 - 1e-9 and best[1] >= 1156 / 8 / 172 - 1e-9


def test_the_published_example_with_groups_stays_in_nodes() -> None:
    plan = LoadBalancer(EXAMPLE).plan(TWELVE)
    assert plan.policy == "hierarchical"
    greedy = shares(LoadBalancer(EXAMPLE, "greedy").plan(TWELVE))
    assert all(ours >= theirs for ours, theirs in zip(shares(plan), greedy, strict=True))
    assert groups_stay_in_nodes(plan, EXAMPLE)


def groups_stay_in_nodes(plan: BalancePlan, shape: SlotShape) -> bool:
    nodes = plan.placement.phy2log.reshape(plan.placement.layers, shape.nodes, -1)
    groups = [[set((node // (shape.experts // shape.groups)).tolist()) for node in layer] for layer in nodes]
    return all(sum(map(len, layer)) == shape.groups == len(set.union(*layer)) for layer in groups)


def test_eight_experts_in_pairs() -> None:
    loads = np.array([[600.0, 560, 120, 120, 20, 10, 10, 10]])
    assert planned(loads, 16, 8).balance.mean >= loads.sum() / 8 / (590 / 3) - 1e-9


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("slots, ranks, least", [(288, 32, 0.9995), (288, 72, 0.994), (320, 64, 0.998)])
def test_recorded_loads(name: str, slots: int, ranks: int, least: float) -> None:
    loads = trace(name)
    plan = planned(loads, slots, ranks)
    assert plan.balance.mean >= least
    assert plan.placement.duplicates() == 0
    assert plan.balance.mean > planned(loads, slots, ranks, "greedy").balance.mean


@pytest.mark.parametrize("name", [*TRACES[::2], *(pytest.param(name, marks=pytest.mark.long) for name in TRACES[1::2])])
@pytest.mark.parametrize("slots, ranks", [(288, 144), (256, 32)])
def test_recorded_loads_against_their_bound(name: str, slots: int, ranks: int) -> None:
    loads = trace(name)[::3]
    assert share_of_bound(planned(loads, slots, ranks), loads).mean() >= 0.98


@pytest.mark.parametrize("kind", ["zipf", "lognormal", "sparse"])
def test_drawn_loads(kind: str) -> None:
    loads = skewed(kind, 3, 256)
    for slots, ranks, least in ((288, 32, 0.9995), (320, 64, 0.99), (256, 32, 0.999)):
        plan = planned(loads, slots, ranks)
        assert share_of_bound(plan, loads).mean() >= least, (kind, slots, ranks)
        assert plan.placement.duplicates() == 0


WORLDS = [(3, 4, 2), (4, 6, 2), (4, 6, 3), (5, 6, 3), (5, 9, 3), (6, 8, 4), (6, 6, 3), (8, 8, 2), (6, 9, 3), (5, 5, 5)]


@pytest.mark.parametrize("sizes", WORLDS)
@pytest.mark.parametrize("seed", range(4))
def test_small_worlds_against_enumeration(sizes: tuple[int, int, int], seed: int) -> None:
    random = np.random.default_rng([seed, *sizes])
    drawn = random.integers(0, 9, (1, sizes[0])) + 1.0 if seed % 2 else random.lognormal(0, 1.2, (1, sizes[0]))
    loads = np.asarray(drawn, np.float64)
    shape = SlotShape(*sizes)
    best = best_by_enumeration(loads[0], shape)
    plan = LoadBalancer(shape).plan(loads)
    assert plan.balance.mean <= best + 1e-9
    assert plan.balance.mean >= 0.99 * best
    assert upper_bound(loads, shape)[0] >= best - 1e-9


def test_enumeration_sees_a_bad_plan() -> None:
    loads = np.array([[8.0, 1, 1, 1]])
    shape = SlotShape(4, 6, 3)
    assert best_by_enumeration(loads[0], shape) > planned(loads[:, ::-1], 6, 3, "greedy").balance.mean - 1e-9
    assert best_by_enumeration(loads[0], shape) == pytest.approx(11 / 3 / (8 / 3 + 1))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, SlotShape]:
    """Loads of one to three layers, some experts idle, and a shape."""
    experts, ranks = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    per_rank = draw(st.integers(-(-experts // ranks), min(experts, -(-experts // ranks) + 3)))
    layers = draw(st.integers(1, 3))
    values = st.one_of(st.just(0.0), st.floats(1e-6, 1e6), st.integers(1, 5).map(float))
    layer = st.lists(values, min_size=experts, max_size=experts)
    loads = np.array(draw(st.lists(layer, min_size=layers, max_size=layers)))
    assume(loads.any())
    return loads, SlotShape(experts, per_rank * ranks, ranks)


@given(worlds(), st.sampled_from(["global", "greedy"]))
@settings(max_examples=60, deadline=None)
def test_every_plan_is_whole(world: tuple[np.ndarray, SlotShape], policy: str) -> None:
    loads, shape = world
    plan = LoadBalancer(shape, policy).plan(loads)
    again = LoadBalancer(shape, policy).plan(loads.copy())
    assert (plan.placement.phy2log == again.placement.phy2log).all()
    assert plan.placement.phy2log.shape == (len(loads), shape.slots)
    assert (plan.placement.counts() >= 1).all()
    if policy == "global":
        assert plan.placement.duplicates() == 0
    bound = upper_bound(loads, shape)
    for value, limit in zip(plan.balance.per_layer, bound, strict=True):
        assert value is None or 0 < value <= limit + 1e-9


@given(worlds(), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e9))
@settings(max_examples=15, deadline=None)
def test_scale_does_not_matter(world: tuple[np.ndarray, SlotShape], seed: int, scale: float) -> None:
    loads, shape = world
    plan = LoadBalancer(shape, "global").plan(loads)
    scaled = LoadBalancer(shape, "global").plan(loads * scale)
    assert plan.balance.mean == pytest.approx(scaled.balance.mean, rel=0.02)


@pytest.mark.parametrize("name", TRACES[1:3])
def test_the_names_of_experts_do_not_matter(name: str) -> None:
    loads = trace(name)
    order = np.random.default_rng(0).permutation(256)
    for slots, ranks in ((288, 32), (288, 72)):
        found = planned(loads[:, order], slots, ranks).balance.mean
        assert found == pytest.approx(planned(loads, slots, ranks).balance.mean, abs=5e-4)


def test_layers_do_not_influence_each_other() -> None:
    loads = trace(TRACES[0])
    whole, alone = planned(loads, 288, 72), planned(loads[2:3], 288, 72)
    assert (whole.placement.phy2log[2] == alone.placement.phy2log[0]).all()


def test_a_layer_without_load_is_placed_evenly() -> None:
    loads = np.stack([np.zeros(8), np.arange(8.0)])
    plan = planned(loads, 12, 4)
    assert plan.balance.per_layer[0] is None
    assert sorted(plan.placement.counts()[0].tolist()) == [1] * 4 + [2] * 4


@pytest.mark.parametrize("nodes", [2, 4])
def test_hierarchical_keeps_groups_in_nodes(nodes: int) -> None:
    loads, shape = trace(TRACES[1]), SlotShape(256, 288, 32, nodes, 8)
    plan = LoadBalancer(shape).plan(loads)
    assert groups_stay_in_nodes(plan, shape)
    assert plan.placement.duplicates() == 0
    assert plan.balance.mean > LoadBalancer(shape, "greedy").plan(loads).balance.mean


def test_hierarchical_with_an_idle_node() -> None:
    loads = np.array([[5.0, 3, 0, 0]])
    shape = SlotShape(4, 8, 4, 2, 2)
    plan = LoadBalancer(shape).plan(loads)
    assert groups_stay_in_nodes(plan, shape)
    assert (plan.placement.counts() >= 1).all()


@pytest.mark.parametrize(
    "shape, settings, message",
    [
        (SlotShape(8, 8, 4), {"policy": "best"}, "policy best: legal: auto, greedy, global, hierarchical"),
        (SlotShape(8, 8, 4), {"policy": "hierarchical"}, "needs nodes and groups above 1, got nodes 1 and groups 1"),
        (SlotShape(8, 8, 4), {"max_moved": 1.5}, "max_moved 1.5: legal: 0 to 1"),
        (SlotShape(8, 8, 4), {"max_moved": float("nan")}, "max_moved nan: legal: 0 to 1"),
    ],
)
def test_a_balancer_refuses(shape: SlotShape, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LoadBalancer(shape, **settings)
    assert message in str(caught.value)


def test_more_slots_than_a_nodes_experts_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 slots a rank, but a node has 4 experts; legal with 2 nodes: up to 16"):
        LoadBalancer(SlotShape(8, 24, 4, 2, 2)).plan(np.ones((1, 8)))


def test_loads_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 layers of 6 experts; wanted 1 layers of 8"):
        LoadBalancer(SlotShape(8, 8, 4)).plan(np.ones((1, 6)))
