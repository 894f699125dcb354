"""Random events of an engine whose ranks are pipeline stages: two to four decode batches take turns, several steps are
in flight, and every answer is that of a request alone. The long suite has 100,000 events."""

from __future__ import annotations

from random import Random

import pytest

from tests.engine.core.paged_fake import AsyncPagedFake
from tests.engine.core.simulation import Simulation, World, random_world
from weft.base.step.sampling_params import SamplingParams
from weft.engine.core.scheduler.scheduler import Scheduler

EVENTS = 2_100


def worlds() -> list[World]:
    random = Random(11)
    return [random_world(random, number, (2, 3, 6, 8), ahead=True, stages=2 + number % 3) for number in range(48)]


WORLDS = worlds()


@pytest.mark.parametrize("number", [pytest.param(n, marks=[pytest.mark.long] * (n >= 6)) for n in range(len(WORLDS))])
def test_random_events(number: int) -> None:
    simulation = Simulation(WORLDS[number], number)
    simulation.run(EVENTS)
    assert min(simulation.events[kind] for kind in ("add", "abort", "stop", "poison", "pause", "step")) > 5
    assert 2 < simulation.fake.most_in_flight <= WORLDS[number].stages + 1


def test_the_simulations_are_as_many_as_promised() -> None:
    assert EVENTS * len(WORLDS) >= 100_000


def test_preemption_and_shared_prefixes_are_met() -> None:
    small = [world for world in WORLDS if world.num_blocks * world.block_size <= 40 and world.max_num_seqs > 2]
    found = [Simulation(world, world.seed, check_state=False) for world in small[:4]]
    for simulation in found:
        simulation.run(1_000)
    stats = [simulation.engine.stats().total for simulation in found]
    assert sum(each.preemptions for each in stats) > 10 and sum(each.cached_tokens for each in stats) > 300


def test_a_preemption_does_not_empty_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six requests that do not fit together: others go on while the blocks of one that was preempted become free."""
    world = World(num_blocks=24, block_size=2, max_num_seqs=6, ahead=True, stages=2, vocab=50)
    simulation, preempted = Simulation(world, 1), list[int]()
    preempt, fake = Scheduler._preempt_youngest, simulation.fake
    assert isinstance(fake, AsyncPagedFake)

    def noted(self: Scheduler) -> None:
        preempted.append(len(fake._in_flight))
        preempt(self)

    monkeypatch.setattr(Scheduler, "_preempt_youngest", noted)
    for number in range(6):
        simulation.add(str(number), [number] * 4, SamplingParams(max_tokens=20, ignore_eos=True))
    empty = list[int]()
    while len(simulation.engine._live) > 2:
        simulation.step()
        empty.append(len(fake._in_flight))
    simulation.drain()
    assert len(preempted) > 3 and min(preempted) > 0
    assert empty.count(0) <= 1
