"""Balancing while serving against ranks that keep every rule: random loads, deaths, plans that fail or come late."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.expert_moves import InlinePlanner, random_balancing
from weft.base.step.experts import ExpertWork
from weft.parallel.experts.balancing.balancer import LoadBalancer
from weft.parallel.experts.balancing.expert_balancing import BalanceSettings, ExpertBalancing
from weft.parallel.experts.files.sources import read_loads
from weft.parallel.experts.placement.placement import ExpertPlacement, even_placement
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.placement.transport import TransferRate
from weft.parallel.experts.statistics.loads import FloatArray, IntArray
from weft.parallel.experts.statistics.metric import balance
from weft.parallel.experts.statistics.recorder import LoadRecorder


@dataclass
class ObedientRanks:
    """What real ranks do, with experts' numbers for weights; every broken rule is an assertion."""

    layers: tuple[int, ...]
    held: list[list[int]]
    per_rank: int
    pace: TransferRate
    loads: IntArray
    staged: dict[int, tuple[int, set[int]]] = field(default_factory=dict)
    layer: int = -1
    steps: int = 0
    asked: list[int] = field(default_factory=list)

    def step(self, work: ExpertWork | None) -> None:
        self.steps += 1
        if work is None:
            return
        for switch in work.switches:
            row = self.layers.index(switch.layer)
            changed = [s for s, (a, b) in enumerate(zip(self.held[row], switch.experts, strict=True)) if a != b]
            assert self.layer == switch.layer and sorted(self.staged) == changed
            for slot in changed:
                expert, parts = self.staged[slot]
                assert expert == switch.experts[slot] and parts == set(range(self.pace.parts))
            assert len(set(switch.experts)) == len(set(self.held[row]))
            self.held[row] = list(switch.experts)
            self.staged = {}
        ends: Counter[tuple[str, int]] = Counter()
        for move in work.moves:
            if move.layer != self.layer:
                self.layer, self.staged = move.layer, {}
            to, origin = move.slot // self.per_rank, move.source // self.per_rank
            ends.update([("to", to)] + ([("from", origin)] if origin != to else []))
            expert = self.held[self.layers.index(move.layer)][move.source]
            found, parts = self.staged.setdefault(move.slot, (expert, set()))
            assert found == expert and move.part not in parts and move.parts == self.pace.parts
            parts.add(move.part)
        assert not ends or max(ends.values()) <= self.pace.parts_per_step

    def expert_counts(self) -> IntArray:
        self.asked.append(self.steps)
        return self.loads


@dataclass(frozen=True)
class World:
    shape: SlotShape
    layers: tuple[int, ...]
    pace: TransferRate
    most_moved: int
    interval: int
    window: int

    def balancing(self, planner: InlinePlanner | None, **changes: Any) -> ExpertBalancing:
        chosen = BalanceSettings(
            self.layers,
            self.interval,
            self.window,
            1.0,
            LoadBalancer(self.shape, "auto", self.most_moved / self.shape.slots),
            self.most_moved,
            self.pace,
            60,
        )
        placement = even_placement(len(self.layers), self.shape)
        return ExpertBalancing(replace(chosen, **changes), placement, planner)

    def ranks(self, placement: ExpertPlacement, loads: IntArray) -> ObedientRanks:
        return ObedientRanks(self.layers, placement.phy2log.tolist(), self.shape.slots_per_rank, self.pace, loads)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    ranks = draw(st.integers(2, 4))
    experts = draw(st.integers(ranks, 9))
    least = -(-experts // ranks)
    shape = SlotShape(experts, ranks * draw(st.integers(least, min(experts, least + 2))), ranks)
    layers = tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=3))))
    pace = TransferRate(draw(st.integers(1, 3)), draw(st.integers(1, 5)))
    interval = draw(st.integers(1, 6))
    return World(shape, layers, pace, draw(st.integers(1, shape.slots)), interval, draw(st.integers(1, interval)))


def loads_of(seed: int, world: World) -> IntArray:
    draw = np.random.default_rng(seed)
    return (draw.pareto(1.0, (len(world.layers), world.shape.experts)) * 20).astype(np.int64)


def gains(old: ExpertPlacement, new: ExpertPlacement, loads: FloatArray) -> bool:
    """Whether no layer got worse under `loads`."""
    pairs = zip(balance(old, loads).per_layer, balance(new, loads).per_layer, strict=True)
    return all(before is None or after is None or after >= before - 1e-12 for before, after in pairs)


@settings(deadline=None, max_examples=30)
@given(
    worlds(),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=4),
    st.integers(0, 4),
    st.frozensets(st.integers(1, 4)),
)
def test_ranks_and_engine_agree_whatever_happens(
    world: World, lives: list[tuple[int, bool]], delay: int, fail: frozenset[int]
) -> None:
    """lives: loads by seed, and whether the ranks die in the middle of it."""
    planner = InlinePlanner(LoadBalancer(world.shape, "auto", world.most_moved / world.shape.slots), delay, fail)
    balancing = world.balancing(planner)
    ranks = world.ranks(balancing.placement, loads_of(0, world))
    for seed, dies in lives:
        ranks.loads = loads_of(seed, world)
        for step in range(40):
            before = balancing.placement
            work = balancing.work()
            if dies and step == 23:
                break  # in this step: what it would have done is not done
            ranks.step(work)
            balancing.stepped(ranks)
            assert balancing.placement.phy2log.tolist() == ranks.held
            if work is not None and work.switches:
                assert (balancing.placement.moved(before) > 0).sum() == len(work.switches)
                assert balancing.placement.moved(before).max() <= world.most_moved
        if dies:
            balancing.begin()
            assert balancing.placement.phy2log.tolist() == ranks.held
            ranks = world.ranks(balancing.placement, ranks.loads)
    stats = balancing.stats()
    assert stats.decisions == planner.started and stats.failures <= len(fail)


class Later(ObedientRanks):
    """Counts that were asked for are given later."""

    def __init__(self, ranks: ObedientRanks) -> None:
        super().__init__(**{each.name: getattr(ranks, each.name) for each in fields(ranks)})
        self.counted: deque[IntArray] = deque()

    def ask_expert_counts(self) -> None:
        self.counted.append(super().expert_counts())

    def expert_counts(self) -> IntArray:
        return self.counted.popleft() if self.counted else super().expert_counts()


@settings(deadline=None, max_examples=30)
@given(worlds(), st.integers(0, 5), st.integers(1, 4), st.integers(0, 4))
def test_ranks_and_engine_agree_with_several_steps_in_flight(world: World, seed: int, ahead: int, delay: int) -> None:
    """Ranks run a step when it is planned; the engine commits its work when it has retired."""
    planner = InlinePlanner(LoadBalancer(world.shape, "auto", world.most_moved / world.shape.slots), delay)
    balancing = world.balancing(planner)
    ranks = Later(world.ranks(balancing.placement, loads_of(seed, world)))
    held = deque[list[list[int]]]()
    for _ in range(60):
        while len(held) <= ahead:
            ranks.step(balancing.work())
            held.append([list(row) for row in ranks.held])
        expected = held.popleft()
        balancing.stepped(ranks, len(held))
        assert balancing.placement.phy2log.tolist() == expected
    while held:
        expected = held.popleft()
        balancing.stepped(ranks, len(held))
    assert balancing.placement.phy2log.tolist() == expected and not ranks.counted
    assert balancing.stats().decisions == planner.started


@settings(deadline=None, max_examples=15)
@given(worlds(), st.integers(0, 50))
def test_a_plan_is_taken_where_it_helps(world: World, seed: int) -> None:
    planner = InlinePlanner(LoadBalancer(world.shape, "auto", world.most_moved / world.shape.slots))
    balancing = world.balancing(planner)
    loads = loads_of(seed, world)
    ranks = world.ranks(balancing.placement, loads)
    first = balancing.placement
    for _ in range(40):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
    assert gains(first, balancing.placement, loads.astype(np.float64))


def test_a_balanced_layer_stays() -> None:
    world = World(SlotShape(4, 4, 2), (0, 1), TransferRate(), 4, 1, 1)
    planner = InlinePlanner(LoadBalancer(world.shape))
    balancing = world.balancing(planner, threshold=0.9)
    ranks = world.ranks(balancing.placement, np.array([[5, 5, 5, 5], [9, 9, 1, 1]]))
    for _ in range(20):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
    assert balancing.placement.phy2log.tolist()[0] == [0, 1, 2, 3]
    stats = balancing.stats()
    assert stats.layers_switched == 1 and stats.now == (1.0, 1.0) and stats.before == (1.0, 1.0)
    assert planner.started == 1


def test_without_rows_nothing_is_planned() -> None:
    world = World(SlotShape(4, 4, 2), (0,), TransferRate(), 4, 2, 2)
    planner = InlinePlanner(LoadBalancer(world.shape))
    balancing = world.balancing(planner)
    ranks = world.ranks(balancing.placement, np.zeros((1, 4), np.int64))
    for _ in range(10):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
    assert ranks.asked and not planner.started and balancing.stats().before == ()


def test_the_window_is_the_end_of_the_interval() -> None:
    world = World(SlotShape(4, 4, 2), (0,), TransferRate(), 4, 5, 2)
    balancing = world.balancing(None)
    ranks = world.ranks(balancing.placement, np.ones((1, 4), np.int64))
    fills = []
    for _ in range(10):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
        fills.append(balancing.stats().window_steps)
    assert ranks.asked == [3, 5, 8, 10]  # counted away, then read
    assert fills == [0, 0, 0, 1, 0] * 2


def test_a_plan_beyond_the_limit_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    world = World(SlotShape(4, 4, 2), (7,), TransferRate(), 1, 1, 1)
    planner = InlinePlanner(LoadBalancer(world.shape, "auto", 1.0))  # plans swaps: two slots
    balancing = world.balancing(planner)
    ranks = world.ranks(balancing.placement, np.array([[9, 9, 1, 1]]))
    for _ in range(4):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
    assert balancing.placement.phy2log.tolist() == [[0, 1, 2, 3]]
    assert balancing.stats().failures == 3
    assert "changes 2 slots of layer 7; at most 1 may change" in caplog.text


class AnotherModels(InlinePlanner):
    def plan(self, loads: FloatArray, current: ExpertPlacement) -> ExpertPlacement:
        return even_placement(current.layers + 1, SlotShape(current.experts, current.slots, current.ranks))


class Broken(InlinePlanner):
    def start(self, loads: FloatArray, current: ExpertPlacement) -> None:
        raise OSError("no process")


@pytest.mark.parametrize("kind", [AnotherModels, Broken])
def test_a_bad_decider_leaves_the_placement(kind: type[InlinePlanner]) -> None:
    world = World(SlotShape(4, 4, 2), (0,), TransferRate(), 4, 1, 1)
    balancing = world.balancing(kind(LoadBalancer(world.shape)))
    ranks = world.ranks(balancing.placement, np.array([[9, 9, 1, 1]]))
    for _ in range(4):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
    assert balancing.placement.phy2log.tolist() == [[0, 1, 2, 3]]
    assert balancing.stats().failures >= 3 and balancing.stats().decisions >= 3


def test_random_plans_move_all_the_time() -> None:
    """What the exact suite relies on."""
    balancing = random_balancing(SlotShape(5, 6, 2), (0, 1), pace=TransferRate(3, 4))
    ranks = ObedientRanks(
        (0, 1), balancing.placement.phy2log.tolist(), 3, TransferRate(3, 4), np.ones((2, 5), np.int64)
    )
    for _ in range(60):
        ranks.step(balancing.work())
        balancing.stepped(ranks)
        assert balancing.placement.phy2log.tolist() == ranks.held
    assert balancing.stats().layers_switched > 5


def test_loads_are_recorded(tmp_path: Path) -> None:
    """Of a model of four layers of which the second and the last have experts; the rest of a window too."""
    path = tmp_path / "stats.json"
    recorder = LoadRecorder(path, "m", 4, (1, 3), 3)
    world = World(SlotShape(3, 4, 2), (1, 3), TransferRate(), 4, 3, 2)
    plain = world.balancing(None, balancer=None)
    balancing = ExpertBalancing(plain.settings, plain.placement, None, recorder)
    ranks = world.ranks(balancing.placement, np.array([[1, 2, 3], [4, 5, 6]]))
    for _ in range(5):
        balancing.stepped(ranks)
    assert ranks.asked and read_loads(path).tolist() == [[0, 0, 0], [3, 6, 9], [0, 0, 0], [12, 15, 18]]
    assert recorder.steps == 4
    balancing.finish(ranks)
    assert read_loads(path)[1].tolist() == [4, 8, 12] and recorder.steps == 5
    balancing.finish(ranks)
    assert recorder.steps == 5
    assert [each.name for each in tmp_path.iterdir()] == ["stats.json"]


def test_a_full_disk_does_not_end_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    recorder = LoadRecorder(folder / "stats.json", "m", 1, (0,), 4)
    world = World(SlotShape(4, 4, 2), (0,), TransferRate(), 4, 1, 1)
    plain = world.balancing(None)
    balancing = ExpertBalancing(plain.settings, plain.placement, None, recorder)
    (folder / "stats.json").unlink()
    folder.rmdir()
    balancing.stepped(world.ranks(balancing.placement, np.ones((1, 4), np.int64)))
    assert "expert statistics are not written" in caplog.text
