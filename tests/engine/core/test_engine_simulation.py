"""50,000 random events: every answer is that of a request alone, and nothing is lost, shared wrongly or starved.

In the long version 50,000 others too.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.engine.core.simulation import Simulation, World, random_world

EVENTS = 2_100


def worlds() -> list[World]:
    random = Random(7)
    return [random_world(random, number, (1, 3, 6, 8), ahead=number % 2 == 1) for number in range(24)]


WORLDS = worlds()


@pytest.mark.parametrize("number", [pytest.param(n, marks=[pytest.mark.long] * (n >= 24)) for n in range(48)])
def test_random_events(number: int) -> None:
    simulation = Simulation(WORLDS[number % 24], number)
    simulation.run(EVENTS)
    assert sum(simulation.events.values()) >= EVENTS
    assert min(simulation.events[kind] for kind in ("add", "abort", "stop", "poison", "pause", "step")) > 5


def test_the_simulations_are_as_many_as_promised() -> None:
    assert 2 * EVENTS * len(WORLDS) >= 100_000


def test_half_of_the_simulations_plan_ahead() -> None:
    simulation = Simulation(WORLDS[1], 1)
    simulation.run(500)
    assert simulation.world.ahead and simulation.fake.most_in_flight == 2
    assert sum(world.ahead for world in WORLDS) == len(WORLDS) // 2


@pytest.mark.parametrize("number", (2, 12))
def test_the_simulations_meet_preemption_and_shared_prefixes(number: int) -> None:
    simulation = Simulation(WORLDS[number], number, check_state=False)
    simulation.run(2_000)
    stats = simulation.engine.stats().total
    assert stats.preemptions > 10 and stats.cached_tokens > 500
