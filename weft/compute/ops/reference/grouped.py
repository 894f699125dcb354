"""Experts over rows sorted by slot: two grouped products, however many slots have rows. And the plain twin, one by one.

Every slot's rows are filled up to a multiple of 4, so that a row's bits do not depend on how many others share its slot
(`linear` says why). Slots are numbers of this rank's own weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 4
ALIGNMENT = 16
"""Bytes: torch's grouped product takes rows that are whole multiples of it."""
SiluMul = Callable[[Tensor, Tensor], Tensor]
"""(gate_up [M, 2 I], row weights [M, 1]) -> [M, I]."""
Linear = Callable[[Tensor, Tensor], Tensor]


def plain_experts(
    x: Tensor, slots: Tensor, gate_up: Tensor, down: Tensor, linear: Linear, act: SiluMul, weights: Tensor
) -> Tensor:
    """[N, k, H]: the answer of each choice, zero where its slot is not here. Two products for each slot with rows."""
    found = x.new_zeros(*slots.shape, x.shape[1])
    for slot in torch.unique(slots[slots >= 0]).tolist():
        rows, place = torch.where(slots == slot)
        hidden = act(linear(x[rows], gate_up[slot]), weights[rows, place, None])
        found[rows, place] = linear(hidden, down[slot])
    return found


def grouped_experts(x: Tensor, slots: Tensor, gate_up: Tensor, down: Tensor, act: SiluMul, weights: Tensor) -> Tensor:
    """[N, k, H] as `plain_experts`, by torch's grouped product; the number of operations is always the same."""
    count, top_k = len(gate_up), slots.shape[1]
    flat = slots.flatten()
    order = torch.sort(torch.where(flat < 0, count, flat), stable=True)
    sizes = counted(order.values, count + 1)[:count]
    padded = (sizes + MULTIPLE - 1) // MULTIPLE * MULTIPLE
    ends, starts = padded.cumsum(0), padded.cumsum(0) - padded
    first = sizes.cumsum(0) - sizes
    here = order.values < count
    slot = order.values.clamp(max=count - 1)
    place = torch.arange(len(flat), device=x.device) - first[slot] + starts[slot]
    spare = len(flat) + (MULTIPLE - 1) * count
    place = torch.where(here, place, spare)
    rows = x.new_zeros(spare + 1, x.shape[1]).index_copy_(0, place, x[order.indices // top_k])
    scale = weights.new_zeros(spare + 1, 1).index_copy_(0, place, weights.flatten()[order.indices, None])
    offsets = ends.to(torch.int32)
    hidden = act(torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=offsets), scale)
    answers = torch._grouped_mm(hidden, down.transpose(1, 2), offs=offsets)
    found = x.new_zeros(len(flat), x.shape[1])
    found[order.indices] = torch.where(here[:, None], answers[place], 0)
    return found.view(*slots.shape, x.shape[1])


def is_aligned(x: Tensor) -> bool:
    """Whether rows of x can go into a grouped product."""
    return x.shape[-1] * x.element_size() % ALIGNMENT == 0


def aligned(gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """gate_up [S, 2 I, H] and down [S, H, I] with I filled up to whole `ALIGNMENT`; columns of zeros add nothing."""
    slots, hidden, wide = down.shape
    unit = ALIGNMENT // down.element_size()
    missing = -wide % unit
    if not missing:
        return gate_up, down
    halves = gate_up.view(slots, 2, wide, hidden)
    return F.pad(halves, (0, 0, 0, missing)).flatten(1, 2), F.pad(down, (0, missing))


def counted(values: Tensor, count: int) -> Tensor:
    """How often each of 0 .. count - 1 stands in values [n]; unlike bincount, its shape does not depend on them."""
    return torch.zeros(count, dtype=torch.int64, device=values.device).index_add_(0, values, torch.ones_like(values))


def summed(answers: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of weights [N, k] * answers [N, k, H], in fp32 at least, one choice after the other."""
    wide = torch.promote_types(answers.dtype, torch.float32)
    total = answers[:, 0].to(wide) * weights[:, :1].to(wide)
    for choice in range(1, answers.shape[1]):
        total = total + answers[:, choice].to(wide) * weights[:, choice : choice + 1].to(wide)
    return total.to(answers.dtype)
