"""Every legal size of experts, slots and shared experts in worlds 1 to 4 gives what one rank gives, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    MIXED,
    ExpertSizes,
    all_expert_sizes,
    checkpoint_at,
    make_executor,
    run_workload,
    same_bits,
)
from weft.arch import parse_config
from weft.layers import Experts
from weft.ops.base import Numerics
from weft.ops.exact_ops import ExactOps

Models = Callable[[str, Numerics], Model]
EXPERTS = {"experts": 5, "latent": 6}
CHUNK = 40
CASES = [
    pytest.param(variant, world, first, id=f"{variant}-world{world}-{first}")
    for variant, experts in EXPERTS.items()
    for world in (1, 2, 3, 4)
    for first in range(0, len(list(all_expert_sizes(world, experts))), CHUNK)
]


def is_equal(model: Model, world: int, sizes: ExpertSizes) -> bool:
    experts = parse_config(checkpoint_at(model.path).config).num_experts
    found = run_workload(make_executor(model.path, sizes.layout(world, experts), EXACT), MIXED)
    return same_bits(found, model.reference)


def check(model: Model, world: int, layouts: Iterable[ExpertSizes]) -> None:
    for sizes in layouts:
        assert is_equal(model, world, sizes), f"world {world}, {sizes} differs from one rank"


@pytest.mark.parametrize(("variant", "world", "first"), CASES)
def test_experts_equal_one_rank(
    variant: str, world: int, first: int, model: Models, record_property: Callable[[str, object], None]
) -> None:
    layouts = list(all_expert_sizes(world, EXPERTS[variant]))[first : first + CHUNK]
    check(model(variant, EXACT), world, layouts)
    record_property("expert_layouts_equal", len(layouts))


@pytest.mark.parametrize("variant", EXPERTS)
@pytest.mark.parametrize("world", [6, 8])
def test_sample_of_larger_worlds(variant: str, world: int, model: Models) -> None:
    layouts = [sizes for sizes in all_expert_sizes(world, EXPERTS[variant]) if sizes.attention <= 9]
    usable = [sizes for sizes in layouts if sizes.ep <= EXPERTS[variant] or sizes.slots > EXPERTS[variant]]
    check(model(variant, EXACT), world, random.Random(world).sample(usable, 10))


def drop_a_choice(patch: pytest.MonkeyPatch) -> None:
    """The second choice of the first row is lost on the ranks that hold it."""
    original = Experts.slots

    def faulty(self: Experts, experts: Tensor) -> Tensor:
        slots = original(self, experts).clone()
        slots[:1, 1:] = -1
        return slots

    patch.setattr(Experts, "slots", faulty)


def neighbour_expert(patch: pytest.MonkeyPatch) -> None:
    """A rank's slots hold its neighbours' weights."""
    original = Experts.__init__

    def faulty(self: Experts, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        self.gate_up = self.gate_up.roll(1, 0)

    patch.setattr(Experts, "__init__", faulty)


def every_replica_answers(patch: pytest.MonkeyPatch) -> None:
    """A rank takes every row of an expert that it holds, whoever's turn it is."""

    def faulty(self: Experts, slots: Tensor) -> Tensor:
        held = [self.slot_of[(self.slot_of == slot).any(1)][0] for slot in range(*self.here)]
        found = torch.full_like(slots, -1)
        for place, replicas in enumerate(held):
            found[torch.isin(slots, replicas)] = place
        return found

    patch.setattr(Experts, "local", faulty)


def weights_of_the_next_row(patch: pytest.MonkeyPatch) -> None:
    """Router weights belong to another row."""
    original = ExactOps.route

    def faulty(self: ExactOps, *args: object) -> tuple[Tensor, Tensor]:
        experts, weights = original(self, *args)  # type: ignore[arg-type]
        return experts, weights.roll(1, 0)

    patch.setattr(ExactOps, "route", faulty)


FAULTS = {
    drop_a_choice: ExpertSizes(1, 1, 2, 5, 1, 1),
    neighbour_expert: ExpertSizes(2, 2, 1, 5, 1, 2),
    every_replica_answers: ExpertSizes(1, 1, 2, 8, 1, 1),
    weights_of_the_next_row: ExpertSizes(2, 1, 2, 5, 2, 2),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_turns_the_suite_red(
    fault: Callable[[pytest.MonkeyPatch], None], model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = model("experts", EXACT)
    assert is_equal(case, 2, FAULTS[fault])
    fault(monkeypatch)
    assert not is_equal(case, 2, FAULTS[fault])


def test_replicas_share_the_rows_of_a_step(model: Models) -> None:
    case = model("experts", EXACT)
    seen: list[Tensor] = []
    sizes = ExpertSizes(1, 1, 1, 10, 1, 1)
    executor = make_executor(case.path, sizes.layout(1, 5), EXACT)
    layer = executor.runners[0].decoder.layers[0].experts
    assert layer is not None
    experts = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 3]])
    seen.append(layer.slots(experts))
    assert seen[0][:, 0].tolist() == [0, 5, 0, 5]
    assert seen[0][:, 1].tolist() == [1, 2, 6, 3]
