"""While expert weights move between slots under running requests, a layout gives what one rank gives, bit for bit.

The short suite takes of each world layouts that have every size of every module, of latent attention in worlds of up to
3; the long one ten others, and all worlds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.equivalence.conftest import Model
from tests.equivalence.harness import (
    EXACT,
    LIMITS,
    MIXED,
    ExpertSizes,
    Workload,
    all_dispatched,
    checkpoint_at,
    covering,
    in_chunks,
    run_workload,
    same_bits,
)
from tests.equivalence.lockstep_pipeline import LockstepPipeline
from tests.support.expert_moves import EveryPlan, random_balancing
from weft.base.errors import WeftError
from weft.compute.comm.lockstep import LockstepComm
from weft.compute.ops.base import Numerics
from weft.parallel.arch import Shards, parse_config
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.placement.transport import TransferRate
from weft.parallel.layout.layout import PipelineLayout
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.tensors.expert_moves import ExpertMover
from weft.runtime.worker.tensors.slot_bytes import SlotBytes
from weft.tools.verify.record import GreedyOutput

Models = Callable[[str, Numerics], Model]
Reference = Callable[[str], list[GreedyOutput]]
EXPERTS = {"experts": 5, "latent": 6}
LONG = Workload(MIXED.prompts, MIXED.arrivals, max_tokens=16, budget=MIXED.budget)


def moving(
    model: Model, world: int, sizes: ExpertSizes, seed: int = 0, layers_of_stages: tuple[int, ...] = ()
) -> tuple[LockstepExecutor, EveryPlan]:
    """Ranks of a layout, and a balancing that gives them new random placements as fast as they can move."""
    checkpoint = checkpoint_at(model.path)
    config = parse_config(checkpoint.config)
    layout = sizes.layout(world, config.num_experts)
    if layers_of_stages:
        layout = replace(layout, pipeline=PipelineLayout(stages=len(layers_of_stages), layers=layers_of_stages))
    shape = SlotShape(config.num_experts, sizes.slots, sizes.ep)
    limits = replace(LIMITS, staged_slots=shape.slots_per_rank, count_experts=True)
    shards = Shards(config, layout)
    executor = LockstepExecutor(checkpoint, shards, EXACT, limits, torch.device("cpu"))
    layers = tuple(layer for layer in range(config.num_layers) if config.has_experts(layer))
    pace = TransferRate(*random.Random(seed).choice(((1, 2), (1, 20), (3, 8), (2, 5))))
    return executor, random_balancing(shape, layers, seed=seed, pace=pace)


def usable(world: int, experts: int) -> list[ExpertSizes]:
    sizes = all_dispatched(world, experts)
    return [each for each in sizes if each.slots % each.ep == 0 and each.slots <= experts * each.ep]


def parts(world: int, variant: str) -> tuple[list[ExpertSizes], list[ExpertSizes]]:
    """Layouts that have every size of every module (of world 2 any two together), mixed at random, and ten others."""
    layouts = usable(world, EXPERTS[variant])
    some, more = covering(random.Random(world).sample(layouts, len(layouts)), 2 if world == 2 else 1)
    return some, more[:10]


@pytest.fixture(scope="module")
def reference(model: Models) -> Reference:
    found: dict[str, list[GreedyOutput]] = {}

    def of(variant: str) -> list[GreedyOutput]:
        if variant not in found:
            one = ExpertSizes(1, 1, 1, EXPERTS[variant], 1, 1)
            found[variant] = run_workload(moving(model(variant, EXACT), 1, one)[0], LONG)
        return found[variant]

    return of


def parts_of(variant: str, world: int) -> tuple[list[ExpertSizes], list[ExpertSizes]]:
    """Moves do not depend on how attention is computed: of latent attention larger worlds are in the long suite."""
    some, more = parts(world, variant)
    return ([], [*some, *more]) if variant == "latent" and world > 3 else (some, more)


PARTS = {(variant, world): parts_of(variant, world) for variant in EXPERTS for world in (1, 2, 3, 4, 6)}


@pytest.mark.parametrize(("variant", "world", "layouts"), in_chunks(PARTS, 10))
def test_moving_experts_change_nothing(
    variant: str, world: int, layouts: list[ExpertSizes], model: Models, reference: Reference
) -> None:
    switched = 0
    for seed, sizes in enumerate(layouts):
        executor, balancing = moving(model(variant, EXACT), world, sizes, seed)
        found = run_workload(executor, LONG, balancing)
        assert same_bits(found, reference(variant)), f"world {world}, {sizes} differs from one rank"
        switched += balancing.stats().layers_switched
    assert switched >= len(layouts)


@pytest.mark.parametrize("layers", [(2, 1), (1, 1, 1)])
def test_moving_experts_of_pipeline_stages(model: Models, reference: Reference, layers: tuple[int, ...]) -> None:
    """A move is done by the stage that has the layer."""
    sizes = ExpertSizes(1, 1, 2, 6, 1, 2)
    executor, balancing = moving(model("experts", EXACT), 2, sizes, 3, layers)
    assert same_bits(run_workload(executor, LONG, balancing), reference("experts"))
    assert balancing.stats().layers_switched > 1


@pytest.mark.parametrize("layers", [(2, 1), (1, 1, 1)])
def test_moving_experts_while_several_steps_are_in_flight(
    model: Models, reference: Reference, layers: tuple[int, ...]
) -> None:
    """Moves and switches are parts of plans: each stage does them when the plan comes there."""
    for seed, sizes in enumerate((ExpertSizes(1, 1, 2, 6, 1, 2), ExpertSizes(1, 2, 1, 5, 1, 1))):
        executor, balancing = moving(model("experts", EXACT), 2, sizes, seed, layers)
        pipeline = LockstepPipeline(executor)
        assert same_bits(run_workload(executor, LONG, balancing, pipeline), reference("experts"))
        assert balancing.stats().layers_switched > 1
        assert pipeline.most_in_flight == len(layers) + 1


def test_counts_are_the_routers_choices(model: Models) -> None:
    """Every row that ran chose top-k experts, and is counted once, whatever the layout; in the last layer only sampled
    rows have experts."""
    seen = []
    for world, sizes in (
        (1, ExpertSizes(1, 1, 1, 5, 1, 1)),
        (4, ExpertSizes(2, 1, 2, 6, 1, 4)),
        (2, ExpertSizes(1, 1, 2, 6, 1, 1, dispatch="all_to_all")),
        (2, ExpertSizes(1, 2, 1, 5, 1, 1)),
    ):
        executor, balancing = moving(model("experts", EXACT), world, sizes)
        balancing.settings = replace(balancing.settings, interval=1000, window=1000)
        run_workload(executor, LONG, balancing)
        seen.append(executor.expert_counts())
    rows = sum(len(prompt) + LONG.max_tokens - 1 for prompt in LONG.prompts)
    sampled = len(LONG.prompts) * LONG.max_tokens
    moe = executor.shards.config.moe
    assert moe is not None
    top_k = moe.top_k
    assert seen[0].sum(axis=1).tolist() == [*[rows * top_k] * (len(seen[0]) - 1), sampled * top_k]
    assert all((counts == seen[0]).all() for counts in seen)


def flip_a_bit_on_the_way(patch: pytest.MonkeyPatch) -> str:
    original = LockstepComm.all_to_all

    def faulty(self: LockstepComm, xs: Any, outs: Any, group: Any) -> None:
        original(self, xs, outs, group)
        for out in outs:
            if out.dtype == torch.int64 and len(out) > 2:
                out[0] ^= 1 << 40

    patch.setattr(LockstepComm, "all_to_all", faulty)
    return r"layer \d+, expert slot \d+: part \d of \d of the weights differs from slot \d+ of rank \d"


def write_half(patch: pytest.MonkeyPatch) -> str:
    original = SlotBytes.write

    def faulty(self: SlotBytes, slot: int, words: torch.Tensor) -> None:
        original(self, slot, words)
        self._rows[-1][slot, -1] += 1

    patch.setattr(SlotBytes, "write", faulty)
    return r"layer \d+, expert slot \d+: the weights differ from those received"


@pytest.mark.parametrize("fault", [flip_a_bit_on_the_way, write_half])
def test_other_weights_are_a_fault_that_names_the_slot(
    fault: Callable[[pytest.MonkeyPatch], str], model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = fault(monkeypatch)
    executor, balancing = moving(model("experts", EXACT), 2, ExpertSizes(1, 1, 2, 6, 1, 1))
    before = balancing.placement.phy2log.tolist()
    with pytest.raises((WeftError, AssertionError), match=message):
        run_workload(executor, LONG, balancing)
    if fault is flip_a_bit_on_the_way:
        assert balancing.placement.phy2log.tolist() == before and not balancing.stats().layers_switched


def stay_silent(patch: pytest.MonkeyPatch) -> None:
    """New slots are announced, their weights are not written."""
    patch.setattr(SlotBytes, "write", lambda self, slot, words: None)
    patch.setattr(SlotBytes, "holds", lambda self, slot, words: True)


def one_rank_lags(patch: pytest.MonkeyPatch) -> None:
    """Rank 0 keeps its old routing table."""
    original = ExpertMover._switch

    def faulty(self: ExpertMover, switch: Any) -> None:
        layer: Any = self._layers[switch.layer]
        place = layer.place
        if self._comm.rank == 0:
            layer.place = lambda slot_map: None
        original(self, switch)
        layer.place = place

    patch.setattr(ExpertMover, "_switch", faulty)


@pytest.mark.parametrize("fault", [stay_silent, one_rank_lags])
def test_the_comparison_sees_wrong_weights(
    fault: Callable[[pytest.MonkeyPatch], None],
    model: Models,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = reference("experts")
    fault(monkeypatch)
    executor, balancing = moving(model("experts", EXACT), 2, ExpertSizes(1, 1, 2, 6, 1, 1))
    assert not same_bits(run_workload(executor, LONG, balancing), wanted)
