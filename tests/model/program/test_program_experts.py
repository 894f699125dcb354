"""Programs of models with routed experts: what operations one by one give, also while experts move between slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.equivalence.harness import LIMITS, MIXED, ExpertSizes, Workload, run_workload, same_bits
from tests.support.exact_model import write_random
from tests.support.expert_moves import random_balancing
from tests.support.native_libraries import need
from tests.support.program_executor import ProgramExecutor
from weft.compute.ops.base import Numerics
from weft.compute.ops.native.packed import PackedSlots
from weft.compute.ops.operations.attention import COS_SIN, WEIGHTS
from weft.compute.ops.operations.experts import HERE_HI, HERE_LO, TOP_K
from weft.compute.ops.operations.table import Op
from weft.model.checkpoint import open_checkpoint
from weft.model.program import program as programs
from weft.model.program.fusion import optimize
from weft.model.program.ir import Instruction, Recording
from weft.parallel.arch import Shards, parse_config
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.placement.transport import TransferRate
from weft.runtime.worker.lockstep_executor import LockstepExecutor
from weft.runtime.worker.runner import Runner

LONG = Workload(MIXED.prompts, MIXED.arrivals, max_tokens=16, budget=MIXED.budget)
LAYERS = (0, 1, 2)


@pytest.fixture(autouse=True)
def _library() -> None:
    need("comm", "step")


@contextmanager
def executor(
    path: Path, world: int, sizes: ExpertSizes, numerics: Numerics, *, program: bool
) -> Iterator[LockstepExecutor]:
    """The ranks of a layout with their programs, or one operation after the other."""
    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config)
    limits = replace(LIMITS, staged_slots=-(-sizes.slots // sizes.ep), count_experts=True)
    shards = Shards(config, sizes.layout(world, config.num_experts))
    if program:
        made: LockstepExecutor = ProgramExecutor(checkpoint, shards, numerics, limits)
    else:
        made = LockstepExecutor(checkpoint, shards, numerics, limits, torch.device("cpu"))
    try:
        yield made
    finally:
        made.close()


SIZES = [
    (1, ExpertSizes(1, 1, 1, 8, 1, 1)),
    (2, ExpertSizes(1, 1, 2, 8, 1, 1)),
    (2, ExpertSizes(2, 2, 1, 5, 1, 2)),
    (2, ExpertSizes(1, 1, 2, 8, 1, 1, "all_to_all")),
    (2, ExpertSizes(2, 2, 1, 8, 1, 1, "all_to_all")),
]


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize(("world", "sizes"), SIZES, ids=str)
def test_a_program_gives_what_its_operations_give(
    world: int, sizes: ExpertSizes, top_k: int, quantization: str, tmp_path: Path
) -> None:
    path = write_random(tmp_path, "experts", sizes={"num_experts_per_tok": top_k})
    numerics, counts, found = Numerics(torch.float32, quantization=quantization), [], []
    for program in (False, True):
        with executor(path, world, sizes, numerics, program=program) as made:
            layer = made.runners[0].decoder.layers[-1].experts
            assert layer is not None and isinstance(layer.gate_up, PackedSlots)
            found.append(run_workload(made, MIXED))
            counts.append(made.expert_counts())
    assert same_bits(*found)
    assert (counts[0] == counts[1]).all() and counts[0].sum() > 0


@pytest.mark.parametrize("dispatch", ["all_gather", "all_to_all"])
@pytest.mark.parametrize(("world", "attention"), [(1, 1), (2, 1), (2, 2)])
def test_latents_and_shared_experts_in_a_program(world: int, attention: int, dispatch: str, tmp_path: Path) -> None:
    path, found = write_random(tmp_path, "latent"), []
    sizes = ExpertSizes(attention, 1, world, 6, attention, attention, dispatch)
    for program in (False, True):
        with executor(path, world, sizes, Numerics(torch.float32), program=program) as made:
            found.append(run_workload(made, MIXED))
    assert same_bits(*found)


@pytest.mark.parametrize(
    ("world", "sizes"),
    [
        (1, ExpertSizes(1, 1, 1, 5, 1, 1)),
        (2, ExpertSizes(1, 1, 2, 6, 1, 1)),
        (2, ExpertSizes(2, 2, 1, 5, 1, 1)),
        (2, ExpertSizes(2, 1, 1, 5, 1, 1)),
        (2, ExpertSizes(1, 1, 2, 6, 1, 1, "all_to_all")),
    ],
    ids=str,
)
@pytest.mark.parametrize("quantization", ["none", "int4"])
def test_moving_experts_change_nothing_in_a_program(
    world: int, sizes: ExpertSizes, quantization: str, tmp_path: Path
) -> None:
    """Top 1, so that a row's sum has one addend, whichever rank its expert moves to."""
    path = write_random(tmp_path, "experts", sizes={"num_experts_per_tok": 1})
    numerics, switched = Numerics(torch.float32, quantization=quantization), 0
    with executor(path, world, sizes, numerics, program=False) as still:
        wanted = run_workload(still, LONG)
    for seed in range(2):
        with executor(path, world, sizes, numerics, program=True) as moving:
            balancing = random_balancing(
                SlotShape(5, sizes.slots, sizes.ep), LAYERS, seed=seed, pace=TransferRate(2, 5)
            )
            assert same_bits(run_workload(moving, LONG, balancing), wanted), f"seed {seed}"
            switched += balancing.stats().layers_switched
    assert switched >= 2


def test_the_comparison_sees_a_program_that_reads_an_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = write_random(tmp_path, "experts", sizes={"num_experts_per_tok": 1}), ExpertSizes(1, 1, 1, 5, 1, 1)
    with executor(path, 1, sizes, Numerics(torch.float32), program=False) as still:
        wanted = run_workload(still, LONG)
    original = Runner._program

    def faulty(self: Runner, *args: Any) -> object:
        found = original(self, *args)
        for layer in self.decoder.layers:
            assert layer.experts is not None
            layer.experts.tables = replace(layer.experts.tables, slot_of=layer.experts.tables.slot_of.clone())
        return found

    monkeypatch.setattr(Runner, "_program", faulty)
    with executor(path, 1, sizes, Numerics(torch.float32), program=True) as moving:
        balancing = random_balancing(SlotShape(5, 5, 1), LAYERS, seed=0, pace=TransferRate(2, 5))
        assert not same_bits(run_workload(moving, LONG, balancing), wanted)


def test_experts_that_are_not_packed_have_no_program(tmp_path: Path) -> None:
    path, sizes = write_random(tmp_path, "experts"), ExpertSizes(1, 1, 1, 5, 1, 1)
    with executor(path, 1, sizes, Numerics(torch.float32, moe_backend="grouped"), program=False) as made:
        found, why = made.runners[0]._program(made.world.comms[0], enforce_eager=False)
        assert found is None and why == "routed experts that are not packed"


def drop_the_last_choice(step: Instruction) -> None:
    if step.op is Op.COMBINE:
        step.numbers[TOP_K] -= 1


def slots_of_the_neighbour(step: Instruction) -> None:
    if step.op in (Op.PLACE, Op.DISPATCH):
        step.numbers[HERE_LO] += 1
        step.numbers[HERE_HI] += 1


def another_position(step: Instruction) -> None:
    if step.op is Op.LATENT:
        angles = step.tensors[COS_SIN]
        assert isinstance(angles, torch.Tensor)
        step.tensors[COS_SIN] = angles.roll(1, 0)


def another_heads_matrix(step: Instruction) -> None:
    if step.op is Op.PER_HEAD:
        packed = step.tensors[WEIGHTS]
        assert isinstance(packed, PackedSlots)
        step.tensors[WEIGHTS] = replace(packed, slots=(*packed.slots[1:], packed.slots[0]))


GATHERED, EXCHANGED = ExpertSizes(1, 1, 2, 8, 1, 1), ExpertSizes(1, 1, 2, 8, 1, 1, "all_to_all")
FAULTS = [
    (drop_the_last_choice, "experts", GATHERED),
    (drop_the_last_choice, "experts", EXCHANGED),
    (slots_of_the_neighbour, "experts", GATHERED),
    (another_position, "latent", EXCHANGED),
    (another_heads_matrix, "latent", GATHERED),
]


@pytest.mark.parametrize(("fault", "variant", "sizes"), FAULTS)
def test_faults_of_a_program_are_seen(
    fault: Callable[[Instruction], None],
    variant: str,
    sizes: ExpertSizes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_random(tmp_path, variant)
    with executor(path, 2, sizes, Numerics(torch.float32), program=False) as made:
        wanted = run_workload(made, MIXED)

    def faulty(recording: Recording, **how: Any) -> Recording:
        for step in recording.instructions:
            fault(step)
        return optimize(recording, **how)

    monkeypatch.setattr(programs, "optimize", faulty)
    with executor(path, 2, sizes, Numerics(torch.float32), program=True) as made:
        assert not same_bits(run_workload(made, MIXED), wanted)
