"""Every legal size of experts, slots and shared experts, under every dispatcher, in worlds 1 to 4, gives what one rank
gives, bit for bit; and an all_to_all gives it on weights that are not exact, too.

The short suite takes some of them, in which any three sizes (slots and dispatchers, too) have every combination.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    ALONE,
    EXACT,
    MIXED,
    ExpertSizes,
    all_dispatched,
    checkpoint_at,
    combinations_of,
    covering,
    in_chunks,
    make_executor,
    run_workload,
    same_bits,
)
from tests.support.exact_model import write_random
from weft.compute.ops.base import Numerics
from weft.compute.ops.reference.exact_ops import ExactOps
from weft.compute.ops.slot_tables import SlotTables
from weft.model.layers import Experts
from weft.model.models.dispatch import all_to_all
from weft.model.models.dispatch.all_to_all import AllToAll, Choices
from weft.parallel.arch import parse_config
from weft.parallel.layout.resolve import resolve
from weft.parallel.layout.routed import Splits

Models = Callable[[str, Numerics], Model]
EXPERTS = {"experts": 5, "latent": 6}
CHUNK = 40
WORLDS = (1, 2, 3, 4)
PARTS = {
    (variant, world): covering(all_dispatched(world, experts), 3)
    for variant, experts in EXPERTS.items()
    for world in WORLDS
}


def is_equal(model: Model, world: int, sizes: ExpertSizes) -> bool:
    experts = parse_config(checkpoint_at(model.path).config).num_experts
    found = run_workload(make_executor(model.path, sizes.layout(world, experts), EXACT), MIXED)
    return same_bits(found, model.reference)


def check(model: Model, world: int, layouts: Iterable[ExpertSizes]) -> None:
    for sizes in layouts:
        assert is_equal(model, world, sizes), f"world {world}, {sizes} differs from one rank"


@pytest.mark.parametrize(("variant", "world", "layouts"), in_chunks(PARTS, CHUNK))
def test_experts_equal_one_rank(
    variant: str, world: int, layouts: list[ExpertSizes], model: Models, record_property: Callable[[str, object], None]
) -> None:
    check(model(variant, EXACT), world, layouts)
    record_property("expert_layouts_equal", len(layouts))


def test_every_layout_is_a_case() -> None:
    assert sum(len(chosen) + len(rest) for chosen, rest in PARTS.values()) == 904
    for (variant, world), (chosen, rest) in PARTS.items():
        assert {*chosen, *rest} == set(all_dispatched(world, EXPERTS[variant]))
        for axes in itertools.combinations(range(7), 3):
            assert combinations_of(chosen, axes) == combinations_of([*chosen, *rest], axes)


@pytest.mark.parametrize("variant", EXPERTS)
@pytest.mark.parametrize("world", [6, 8])
@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.long)])
def test_sample_of_larger_worlds(variant: str, world: int, part: int, model: Models) -> None:
    """Every size of every module, and ten others."""
    layouts = [sizes for sizes in all_dispatched(world, EXPERTS[variant]) if sizes.attention <= 9]
    usable = [sizes for sizes in layouts if sizes.ep <= EXPERTS[variant] or sizes.slots > EXPERTS[variant]]
    check(model(variant, EXACT), world, covering(random.Random(world).sample(usable, len(usable)), 1)[part][:10])


def drop_a_choice(patch: pytest.MonkeyPatch) -> None:
    """The second choice of the first row is lost on the ranks that hold it."""
    original = SlotTables.slots

    def faulty(self: SlotTables, experts: Tensor) -> Tensor:
        slots = original(self, experts).clone()
        slots[:1, 1:] = -1
        return slots

    patch.setattr(SlotTables, "slots", faulty)


def neighbour_expert(patch: pytest.MonkeyPatch) -> None:
    """A rank's slots hold its neighbours' weights."""
    original = Experts.__init__

    def faulty(self: Experts, *args: Any) -> None:
        original(self, *args)
        assert isinstance(self.gate_up, Tensor)
        self.gate_up = self.gate_up.roll(1, 0)

    patch.setattr(Experts, "__init__", faulty)


def every_replica_answers(patch: pytest.MonkeyPatch) -> None:
    """A rank takes every row of an expert that it holds, also in another rank's turn."""

    def faulty(self: SlotTables, slots: Tensor) -> Tensor:
        held = [self.slot_of[(self.slot_of == slot).any(1)][0] for slot in range(*self.here)]
        found = torch.full_like(slots, -1)
        for place, replicas in enumerate(held):
            found[torch.isin(slots, replicas)] = place
        return found

    patch.setattr(SlotTables, "local", faulty)


def weights_of_the_next_row(patch: pytest.MonkeyPatch) -> None:
    """Router weights belong to another row."""
    original = ExactOps.route

    def faulty(self: ExactOps, *args: Any) -> tuple[Tensor, Tensor]:
        experts, weights = original(self, *args)
        return experts, weights.roll(1, 0)

    patch.setattr(ExactOps, "route", faulty)


def swapped_splits(patch: pytest.MonkeyPatch) -> None:
    """The first two ranks' parts of each exchange go to one another's place."""
    original = AllToAll._of_members

    def faulty(self: AllToAll, parts: Sequence[Tensor]) -> list[Tensor]:
        first, second, *others = original(self, parts)
        size = min(len(first), len(second))
        return [torch.cat((second[:size], first[size:])), torch.cat((first[:size], second[size:])), *others]

    patch.setattr(AllToAll, "_of_members", faulty)


def lost_row(patch: pytest.MonkeyPatch) -> None:
    """The last row that arrives is another one."""
    original = AllToAll._send_rows

    def faulty(self: AllToAll, *args: Any) -> Tensor:
        received = original(self, *args)
        received[-1:] = received[:1]
        return received

    patch.setattr(AllToAll, "_send_rows", faulty)


def wrong_replica(patch: pytest.MonkeyPatch) -> None:
    """The asked slot's neighbour answers."""
    original = Experts.answers

    def faulty(self: Experts, x: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        lo, hi = self.tables.here
        return original(self, x, lo + (slots + 1 - lo) % (hi - lo), weights)

    patch.setattr(Experts, "answers", faulty)


def answers_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """Answers come back in the order of positions, and are taken for the order of choices."""
    patch.setattr(all_to_all, "_arrival", lambda positions: torch.arange(positions.numel()))


def addend_counted_once(patch: pytest.MonkeyPatch) -> None:
    """Of the addends of a position's ranks only the first is taken."""
    original = AllToAll._send_answers

    def faulty(self: AllToAll, answers: Tensor, choices: Choices, splits: Splits) -> Tensor:
        return original(self, answers if self._place % self._block.tp == 0 else answers * 0, choices, splits)

    patch.setattr(AllToAll, "_send_answers", faulty)


def told_weights_of_the_next_row(patch: pytest.MonkeyPatch) -> None:
    """The block gets each row's weights with the row after it."""
    original = AllToAll._send_choices

    def faulty(self: AllToAll, *args: Any) -> Choices:
        found = original(self, *args)
        return replace(found, weights=found.weights.roll(1, 0))

    patch.setattr(AllToAll, "_send_choices", faulty)


EXCHANGED = ExpertSizes(1, 1, 2, 5, 1, 1, "all_to_all")
FAULTS: dict[Callable[[pytest.MonkeyPatch], None], ExpertSizes] = {
    drop_a_choice: ExpertSizes(1, 1, 2, 5, 1, 1),
    neighbour_expert: ExpertSizes(2, 2, 1, 5, 1, 2),
    every_replica_answers: ExpertSizes(1, 1, 2, 8, 1, 1),
    weights_of_the_next_row: ExpertSizes(2, 1, 2, 5, 2, 2),
    swapped_splits: EXCHANGED,
    lost_row: EXCHANGED,
    wrong_replica: replace(EXCHANGED, slots=8),
    answers_out_of_order: EXCHANGED,
    addend_counted_once: ExpertSizes(1, 2, 1, 5, 1, 1, "all_to_all"),
    told_weights_of_the_next_row: EXCHANGED,
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize(("world", "slots"), [(2, 5), (2, 8), (3, 9), (4, 12)])
def test_all_to_all_adds_as_one_rank_does_on_any_weights(
    dtype: torch.dtype, world: int, slots: int, tmp_path: Path
) -> None:
    """Answers are added in the order of a row's choices, wherever their slots lie: no bit depends on the layout."""
    path = write_random(tmp_path, "experts", sizes={"num_experts_per_tok": 4})
    alone = run_workload(make_executor(path, resolve({}, num_experts=5), Numerics(dtype)), ALONE)
    for dispatch, same in (("all_to_all", True), ("all_gather", False)):
        layout = ExpertSizes(1, 1, world, slots, 1, 1, dispatch).layout(world, 5)
        assert same_bits(run_workload(make_executor(path, layout, Numerics(dtype)), MIXED), alone) == same
