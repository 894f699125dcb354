"""Drawing one token per row: temperature, min_p, top_k, top_p, in vLLM's order, over [rows, V] at once. No state.

Tokens are ordered by logit, equal ones by id: what top_k and top_p keep is a prefix of that order. The number of torch
operations does not depend on the number of rows, and a row's result on nothing but the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.base.step.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Draws:
    """Columns [rows, 1] of fp64 on the device: temperature above 0, top_k (V: all), top_p, min_p, and a uniform
    number in [0, 1); `filters`: some row cuts by top_k or top_p, `floors`: some row by min_p."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor
    filters: bool
    floors: bool

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], uniform: Sequence[float], vocab_size: int, device: torch.device
    ) -> Draws:
        tops = [min(p.top_k, vocab_size) if p.top_k > 0 else vocab_size for p in params]
        table = [
            [p.temperature for p in params],
            tops,
            [p.top_p for p in params],
            [p.min_p for p in params],
            uniform,
        ]
        columns = torch.tensor(table, dtype=torch.float64).to(device).unsqueeze(-1)
        filters = any(top < vocab_size or p.top_p < 1 for top, p in zip(tops, params, strict=True))
        temperature, top_k, top_p, min_p, number = columns.unbind()
        return cls(temperature, top_k, top_p, min_p, number, filters, any(p.min_p > 0 for p in params))


def draw(logits: Tensor, draws: Draws) -> Tensor:
    """Token ids [rows] for logits [rows, V] in fp32 or fp64 (-inf: never drawn)."""
    x = (logits - logits.amax(-1, keepdim=True)).div_(draws.temperature.to(logits.dtype))
    if draws.floors:
        x.masked_fill_(x < draws.min_p.log().to(x.dtype), -torch.inf)
    if draws.filters:
        x.masked_fill_(~_kept(x, draws), -torch.inf)
    mass = x.exp_().cumsum(-1, dtype=torch.float64)
    # Rounding must not carry the target to the end: the first id with more mass than the target then has mass of its
    # own.
    end = torch.nextafter(mass[:, -1:], torch.zeros_like(mass[:, -1:]))
    return torch.searchsorted(mass, torch.minimum(draws.uniform * mass[:, -1:], end), right=True)[:, 0]


def _kept(x: Tensor, draws: Draws) -> Tensor:
    """Which tokens lie in the prefix that top_k, and top_p of what top_k leaves, allow."""
    ordered = _descending(x)
    mass = torch.exp(ordered).cumsum(-1, dtype=torch.float64)
    top_k = draws.top_k.long()
    limit = draws.top_p * mass.gather(-1, top_k - 1)
    # A token stays if the tokens before it have not yet reached top_p.
    reached = 1 + (mass[:, :-1] < limit).sum(-1, keepdim=True)
    count = torch.minimum(top_k, torch.where(draws.top_p < 1, reached, x.shape[-1]))
    edge = ordered.gather(-1, count - 1)
    above, level = x > edge, x == edge
    room = count - above.sum(-1, keepdim=True)
    return above | (level & (level.cumsum(-1, dtype=torch.int32) <= room))


def _descending(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        # NumPy's vectorized sort is 20 times as fast as torch's on a CPU; no indices are needed.
        negated = x.neg()
        negated.numpy().sort(axis=-1)
        return negated.neg_()
    return x.sort(dim=-1, descending=True).values


def largest(logits: Tensor) -> Tensor:
    """Values [m, 2] of greedy rows of logits [m, V], without a synchronization with the host."""
    fine = torch.isfinite(logits.amin(-1)) & torch.isfinite(logits.amax(-1))
    return torch.stack((logits.argmax(-1).masked_fill(~fine, 0).double(), fine.double()), -1)
