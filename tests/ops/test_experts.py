"""Grouped experts against the plain twin, and both against one product per row; routing's order and ties."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.arch.config import MoEConfig
from weft.ops.base import Numerics
from weft.ops.routing import route
from weft.ops.torch_ops import TorchOps

CPU = torch.device("cpu")


def per_row(x: Tensor, slots: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64)
    for row in range(x.shape[0]):
        for choice, slot in enumerate(slots[row].tolist()):
            if slot >= 0:
                gate, up = (gate_up[slot].double() @ x[row].double()).chunk(2)
                out[row] += float(weights[row, choice]) * (down[slot].double() @ (F.silu(gate) * up))
    return out


SIZES = [(9, 4, 32, 24), (1, 3, 16, 11), (0, 2, 8, 5), (40, 7, 24, 7)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["grouped", "plain"])
@pytest.mark.parametrize(("rows", "slots", "hidden", "wide"), SIZES)
def test_experts_equal_one_product_per_row(
    dtype: torch.dtype, backend: str, rows: int, slots: int, hidden: int, wide: int
) -> None:
    torch.manual_seed(rows)
    ops = TorchOps(Numerics(dtype, moe_backend=backend), CPU)
    x, weights = torch.randn(rows, hidden).to(dtype), torch.rand(rows, 2)
    gate_up, down = torch.randn(slots, 2 * wide, hidden).to(dtype) / 4, torch.randn(slots, hidden, wide).to(dtype) / 4
    chosen = torch.randint(-1, slots, (rows, 2))
    found = ops.experts(x, chosen, weights, *ops.expert_weights(gate_up, down))
    wanted = per_row(x, chosen, weights, gate_up, down)
    tolerance = 1e-4 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


def test_a_row_has_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(0)
    ops = TorchOps(Numerics(torch.float32), CPU)
    x, weights, chosen = torch.randn(33, 64), torch.rand(33, 2), torch.randint(0, 5, (33, 2))
    gate_up, down = ops.expert_weights(torch.randn(5, 44, 64), torch.randn(5, 64, 22))
    together = ops.experts(x, chosen, weights, gate_up, down)
    for row in range(33):
        alone = slice(row, row + 1)
        assert torch.equal(ops.experts(x[alone], chosen[alone], weights[alone], gate_up, down), together[alone])


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
