"""Grouped experts against the plain twin, and both against one product per row; routing's order and ties."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.native_libraries import need
from weft.compute.ops import make_ops
from weft.compute.ops.base import Numerics
from weft.compute.ops.interface import Ops
from weft.compute.ops.native.step_ops import StepOps
from weft.compute.ops.reference.routing import route
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.slot_tables import SlotTables
from weft.compute.ops.weights import Use, Weight
from weft.parallel.arch.config import MoEConfig

CPU = torch.device("cpu")


def per_row(x: Tensor, slots: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for row in range(x.shape[0]):
        for choice, slot in enumerate(slots[row].tolist()):
            if slot >= 0:
                gate, up = (gate_up[slot].double() @ x[row].double()).chunk(2)
                out[row] += float(weights[row, choice]) * (down[slot].double() @ (F.silu(gate) * up))
    return out


BACKENDS = ("packed", "grouped", "plain")
SIZES = [(9, 4, 32, 24), (1, 3, 16, 11), (0, 2, 8, 5), (40, 7, 24, 7)]


def ops_with(backend: str, dtype: torch.dtype, quantization: str = "none", int8_activations: bool = False) -> Ops:
    numerics = Numerics(dtype, moe_backend=backend, quantization=quantization, int8_activations=int8_activations)
    if backend != "packed":
        return TorchOps(numerics, CPU)
    need("step")
    ops = make_ops(numerics, CPU)
    assert isinstance(ops, StepOps)
    return ops


def prepared(ops: Ops, gate_up: Tensor, down: Tensor) -> tuple[Weight, Weight]:
    """gate_up [S, 2 I, H] and down [S, H, I] as a loader gives them to a layer."""
    slots = len(down)
    return ops.expert_weights(
        ops.prepare_slots(gate_up.flatten(0, 1), Use.GATED, slots),
        ops.prepare_slots(down.flatten(0, 1), Use.LINEAR, slots),
        slots,
    )


def sums(ops: Ops, x: Tensor, slots: Tensor, weights: Tensor, matrices: tuple[Weight, Weight]) -> Tensor:
    return ops.weighted(ops.expert_answers(x, slots, weights, *matrices), weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rows", "slots", "hidden", "wide"), SIZES)
def test_experts_equal_one_product_per_row(
    dtype: torch.dtype, backend: str, rows: int, slots: int, hidden: int, wide: int
) -> None:
    torch.manual_seed(rows)
    ops = ops_with(backend, dtype)
    x, weights = torch.randn(rows, hidden).to(dtype), torch.rand(rows, 2)
    gate_up, down = torch.randn(slots, 2 * wide, hidden).to(dtype) / 4, torch.randn(slots, hidden, wide).to(dtype) / 4
    chosen = torch.randint(-1, slots, (rows, 2))
    found = sums(ops, x, chosen, weights, prepared(ops, gate_up, down))
    wanted = per_row(x, chosen, weights, gate_up, down)
    tolerance = 1e-4 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_has_the_same_bits_in_any_batch(backend: str) -> None:
    torch.manual_seed(0)
    ops = ops_with(backend, torch.float32)
    x, weights, chosen = torch.randn(33, 64), torch.rand(33, 2), torch.randint(0, 5, (33, 2))
    matrices = prepared(ops, torch.randn(5, 44, 64), torch.randn(5, 64, 22))
    together = sums(ops, x, chosen, weights, matrices)
    for row in range(33):
        alone = slice(row, row + 1)
        assert torch.equal(sums(ops, x[alone], chosen[alone], weights[alone], matrices), together[alone])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("here", [(0, 7), (2, 5)], ids=str)
def test_routed_rows_get_the_sums_of_the_slots_here(backend: str, here: tuple[int, int]) -> None:
    """In one call what choices, slots and sums give one after the other, bit for bit."""
    torch.manual_seed(1)
    ops, moe = ops_with(backend, torch.float32), MoEConfig(num_experts=5, top_k=3, intermediate_size=22)
    tables = SlotTables.of((0, 1, 2, 3, 4, 0, 3), 5, here, CPU)
    count = here[1] - here[0]
    matrices = prepared(ops, torch.randn(count, 44, 64), torch.randn(count, 64, 22))
    x = torch.randn(19, 64)
    experts, weights = ops.route(torch.randn(19, 5), None, moe)
    slots = tables.local(tables.slots(experts))
    assert torch.equal(ops.routed(x, experts, weights, tables, *matrices), sums(ops, x, slots, weights, matrices))


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_codes_of_experts_are_those_of_the_twin(quantization: str) -> None:
    torch.manual_seed(2)
    gate_up, down = torch.randn(4, 44, 96).bfloat16(), torch.randn(4, 96, 22).bfloat16()
    x, weights, chosen = torch.randn(30, 96).bfloat16(), torch.rand(30, 2), torch.randint(-1, 4, (30, 2))
    found, unrounded = (
        sums(ops, x, chosen, weights, prepared(ops, gate_up, down))
        for ops in (ops_with("packed", torch.bfloat16, quantization), ops_with("packed", torch.bfloat16))
    )
    twin = ops_with("grouped", torch.bfloat16, quantization)
    wanted = sums(twin, x, chosen, weights, prepared(twin, gate_up, down)).float()
    scale = wanted.abs().max()
    assert (found.float() - wanted).abs().max() < 0.02 * scale
    assert (unrounded.float() - wanted).abs().max() > (found.float() - wanted).abs().max()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_rounded_rows_of_experts_are_those_of_the_twin(quantization: str) -> None:
    torch.manual_seed(2)
    gate_up, down = torch.randn(4, 44, 96), torch.randn(4, 96, 22)
    x, weights, chosen = torch.randn(30, 96), torch.rand(30, 2), torch.randint(-1, 4, (30, 2))
    twin = TorchOps(Numerics(torch.float32, quantization=quantization, int8_activations=True), torch.device("cpu"))
    wanted = sums(twin, x, chosen, weights, prepared(twin, gate_up, down))
    packed, whole = (ops_with("packed", torch.float32, quantization, rounds) for rounds in (True, False))
    # the hidden rows are rounded too, and a last digit may make another code of a number
    torch.testing.assert_close(
        sums(packed, x, chosen, weights, prepared(packed, gate_up, down)), wanted, rtol=0, atol=0.05
    )
    away = sums(whole, x, chosen, weights, prepared(whole, gate_up, down)) - wanted
    assert away.abs().max() > 0.05
    for backend in ("grouped", "plain"):  # their matrices are not in codes: rows stay as they are
        ops, plain = (ops_with(backend, torch.float32, quantization, rounds) for rounds in (True, False))
        found = sums(ops, x, chosen, weights, prepared(ops, gate_up, down))
        assert torch.equal(found, sums(plain, x, chosen, weights, prepared(plain, gate_up, down)))


def test_ties_go_to_the_lowest_expert() -> None:
    moe = MoEConfig(num_experts=4, top_k=2, intermediate_size=1)
    experts, weights = route(torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), None, moe)
    assert experts.tolist() == [[1, 2], [0, 1]]
    torch.testing.assert_close(weights, torch.full((2, 2), 0.5))


def test_the_correction_steers_the_choice_but_not_the_weights() -> None:
    moe = MoEConfig(num_experts=3, top_k=1, intermediate_size=1, score="sigmoid", normalize=False, correction_bias=True)
    experts, weights = route(torch.zeros(1, 3), torch.tensor([0.0, 0.0, 1.0]), moe)
    assert experts.tolist() == [[2]] and weights.tolist() == [[0.5]]


def test_only_the_best_groups_are_looked_at() -> None:
    moe = MoEConfig(num_experts=4, top_k=2, intermediate_size=1, groups=2, top_groups=1, group_best=2)
    experts, _ = route(torch.tensor([[2.2, -9.0, 2.0, 2.0]]), None, moe)
    assert experts.tolist() == [[2, 3]]
