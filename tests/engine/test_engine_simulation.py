"""50,000 random events: every answer is that of a request alone, and nothing is lost, shared wrongly or starved.

In the long version 50,000 others too.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.engine.simulation import Simulation, World

EVENTS = 2_100


def worlds() -> list[World]:
    """Pools from one request's worth to plenty, chunks from one token to whole prompts, one to three groups."""
    random, made = Random(7), []
    for number in range(24):
        block_size = random.choice((1, 2, 4, 16))
        max_num_seqs = random.choice((1, 3, 6, 8))
        made.append(
            World(
                num_blocks=max(2, random.choice((12, 20, 40, 60, 100, 400)) // block_size),
                block_size=block_size,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_seqs + random.choice((0, 1, 7, 40)),
                dp=random.choice((1, 1, 2, 3)),
                vocab=random.choice((2, 6, 50)),
                caching=number % 6 != 5,
                seed=number,
                ahead=number % 2 == 1,
                crowd=3 if number % 3 == 1 else 12,
            )
        )
    return made


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
